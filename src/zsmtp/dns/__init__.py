"""Resolves a destination to the addresses of its mail servers."""
