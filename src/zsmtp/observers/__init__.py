"""Adapters from events to what people and machines read: traces, waterfalls, pages, metrics, logging."""
