-- Mail that moves from one queue to another (zsmtp.queue.moves).

-- Moves to other queues: the hold of recipients that are set apart is made of the number.
CREATE TABLE zsmtp_move (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    name text NOT NULL,
    by_whom text NOT NULL,
    begun bigint NOT NULL
);

-- Which recipients of a message of another queue are in a message here; departed is when that queue was known to have
-- ended them.
CREATE TABLE zsmtp_taken_in (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    move integer NOT NULL,
    message bigint NOT NULL,
    numbers integer[] NOT NULL,
    here bigint NOT NULL,
    departed bigint
);
CREATE INDEX zsmtp_taken_in_message ON zsmtp_taken_in (queue, message);
CREATE INDEX zsmtp_taken_in_departed ON zsmtp_taken_in (departed, queue);
