"""The queue: a message handed in is looked after until every recipient has an end."""
