"""Drivers: they carry out the effects of the other layers, and contain no rules."""
