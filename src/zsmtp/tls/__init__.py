"""TLS for mail: which protection a session must have, who the peer is, and whether that is enough."""
