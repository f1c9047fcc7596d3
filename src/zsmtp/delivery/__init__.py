"""Delivers one message to its recipients: the plan, the sessions, the outcome."""
