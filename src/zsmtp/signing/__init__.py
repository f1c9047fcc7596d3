"""Makes and verifies DKIM signatures (RFC 6376). Only ``keys`` accesses files; all other modules are pure."""
