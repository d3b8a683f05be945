"""The ledger: two chained logs that survive power cuts and damage. Bytes in, bytes out; knows nothing of licenses."""
