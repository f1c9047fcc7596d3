"""TLS for mail: what a session must provide, what the handshake shows of the peer, and whether that is enough."""
