"""Adapters that turn events into traces, waterfalls, pages, metrics and log records."""
