"""Message content as it goes on the wire, streamed in blocks; no I/O of its own."""
