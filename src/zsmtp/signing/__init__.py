"""DKIM signatures, made and verified (RFC 6376). Only ``keys`` touches files; all else is pure."""
