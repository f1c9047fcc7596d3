"""Delivering from Python: configuration, messages, connections kept and shared, and reports as values."""
