"""Judges a sender as receivers do: SPF, DMARC, names, and the records that a domain publishes about its mail."""
