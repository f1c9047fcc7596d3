"""Limits that all stores of the queue share: sizes of pieces, and how long things are kept.

They are part of the contract (``zsmtp.queue.store``): tests hold every store to them.
"""

CHUNK = 256 * 1024  # octets of content in one row
PART_RECIPIENTS = 1000  # recipients written in one transaction of an upload
PART_OCTETS = 1 << 20  # content written in one transaction of an upload
MAX_RULES = 10_000
BY_COMMAND = (1 << 31) - 1
"""What holds a recipient that a command holds, until a command releases it.

All other positive numbers are those of rules. Negative ones are reasons of the program's own to hold a recipient.
"""
HELD_FOR_DOUBT = -1
"""What holds recipients whose delivery is in doubt, where the configuration says ``in-doubt = hold``."""
SPARE_OCTETS = 64 << 20
"""Intake stops when the disk has less room left than this and twice the message: results need some, too."""
NOTICE_WAIT = 300.0
"""Seconds after which a notice is made though other recipients of its message are still in hand."""
NOTICE_RECIPIENTS = 100
"""Recipients in one notice."""
UPLOAD_WAIT = 3600.0
"""Seconds after the last part until an upload that was not accepted is swept."""
KEYS_KEPT = 7 * 86400.0
"""Seconds that an idempotency key is kept after the last end of its message."""
MOVES_KEPT = 7 * 86400.0
"""Seconds that a note of what came from another queue is kept after it departed there, and a move after it began."""
HISTORY_KEPT = 30 * 86400.0
"""Seconds that history is kept, if the store is not opened with another time."""
