"""A second reader of the ledger, written from docs/storage.md alone: what the document says, the daemon must do."""
