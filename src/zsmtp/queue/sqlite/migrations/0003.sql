-- Mail that moves from one queue to another (zsmtp.queue.moves).

-- What tells this queue from others.
INSERT INTO zsmtp_meta (name, value) VALUES ('uid', lower(hex(randomblob(16))));

-- Moves to other queues: the hold of recipients that are set apart is made of the number.
CREATE TABLE zsmtp_move (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    name TEXT NOT NULL,
    by_whom TEXT NOT NULL,
    begun INTEGER NOT NULL
) STRICT;

-- Which recipients of a message of another queue are in a message here; numbers is a list in JSON, departed when that
-- queue was known to have ended them.
CREATE TABLE zsmtp_taken_in (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    move INTEGER NOT NULL,
    message INTEGER NOT NULL,
    numbers TEXT NOT NULL,
    here INTEGER NOT NULL,
    departed INTEGER
) STRICT;

CREATE INDEX zsmtp_taken_in_message ON zsmtp_taken_in (queue, message);
CREATE INDEX zsmtp_taken_in_departed ON zsmtp_taken_in (departed, queue);
