"""zsmtp: the outbound half of a mail system.

The package is a delivery engine for SMTP (RFC 5321) and LMTP (RFC 2033) in layers, each usable by itself:
``proto`` (the protocol as values: bytes in, events out), ``body`` (message content as it goes on the wire),
``dns`` (from host name to an ordered list of addresses), ``net`` (drivers that carry out what the layers ask for),
``delivery`` (one message's way to its recipients), and ``zmailer`` (the ``smtp`` transport agent on top of it).

Importing this package imports none of them: start-up time is a cost that every short run pays.
"""

__version__ = "0.1.0"
