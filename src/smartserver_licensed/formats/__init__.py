"""Bytes ↔ values of the daemon's own borders: MQTT topics and payloads, ledger events. Pure: no I/O, no clock."""
