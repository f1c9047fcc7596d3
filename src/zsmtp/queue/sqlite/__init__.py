"""The queue in one SQLite file: ``store`` has the store, ``caller`` submits in a transaction of the caller."""
