"""What receivers will think of mail from a sender: SPF, DMARC, names, and what a domain publishes about its mail."""
