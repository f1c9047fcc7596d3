"""A fleet of real processes on a real database, with faults at random: ``make chaos``."""
