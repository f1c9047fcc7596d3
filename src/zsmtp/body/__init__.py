"""Message content in the form of the wire, streamed in blocks; no I/O of its own."""
