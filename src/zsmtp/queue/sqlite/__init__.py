"""The queue in one SQLite file: ``store`` is the store, ``caller`` submits in a transaction of the caller."""
