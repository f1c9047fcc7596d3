"""One message's way to its recipients: the attempt, its outcome, the report."""
