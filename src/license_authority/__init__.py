"""The vendor's side: makes roots and grants. Imports only the pure layers `documents` and `domain` of the daemon."""
