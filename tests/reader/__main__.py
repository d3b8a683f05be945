"""`python -m reader PATH`: what a ledger holds, as JSON."""

from reader.reader import main

main()
