"""Delivery in other processes: the owner of a queue hands messages to workers, which hold the connections."""
