"""Mail taken in: listeners for SMTP and LMTP, and what an application has to do with what comes."""
