"""Receives mail: listeners for SMTP and LMTP, and the interface for applications that take the messages."""
