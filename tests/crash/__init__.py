"""`make crash`: the ledger against every fault of docs/storage.md, on the real daemon and real devices."""
