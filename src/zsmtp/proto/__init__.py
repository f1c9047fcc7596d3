"""SMTP and LMTP as values: bytes in, events out; no I/O, no clock."""
