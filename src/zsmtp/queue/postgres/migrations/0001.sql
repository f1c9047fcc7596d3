-- The queue. Every name begins with zsmtp_, because the database may be an application's own.
-- Times of mail are milliseconds since 1970, ids as in zsmtp.queue.ids; texts are UTF-8 without NUL.
-- Leases go by the database's clock alone. Rows that others are to see in the order in which they became visible carry
-- the id of their transaction (xid): what a snapshot did not have is what came after it.

-- Single values: schema, shard, min_program; uid, which tells this queue from others; last_rule, the number that a rule got last.
CREATE TABLE zsmtp_meta (
    name text PRIMARY KEY,
    value text NOT NULL
);

-- The clock by which leases are judged: the time it is now, not when the transaction began.
CREATE FUNCTION zsmtp_clock() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS 'SELECT clock_timestamp()';

-- The server that ran until now: marks that were not on the disk yet went with it.
CREATE FUNCTION zsmtp_incarnation() RETURNS text LANGUAGE sql VOLATILE
    AS $$SELECT extract(epoch FROM pg_postmaster_start_time())::text$$;

-- Ids of messages; numbers of leases; history, counters and the like need no order of their own.
CREATE SEQUENCE zsmtp_id;
CREATE SEQUENCE zsmtp_fence;
CREATE SEQUENCE zsmtp_entry;

-- So many ids, the first of which is not below a lower bound; they only grow. The lock is held within this call alone.
CREATE FUNCTION zsmtp_draw(lowest bigint, many bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    space integer := ('zsmtp_id'::regclass::oid::bigint % 2147483647)::integer;
    first bigint;
BEGIN
    PERFORM pg_advisory_lock(space, 1);
    BEGIN
        first := greatest(nextval('zsmtp_id'), lowest);
        PERFORM setval('zsmtp_id', first + many - 1);
    EXCEPTION WHEN query_canceled OR others THEN
        PERFORM pg_advisory_unlock(space, 1);
        RAISE;
    END;
    PERFORM pg_advisory_unlock(space, 1);
    RETURN first;
END
$$;

-- A message as it was accepted: written once, deleted after the last end and the last notice.
CREATE TABLE zsmtp_message (
    id bigint PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    sender text COLLATE "C" NOT NULL,
    submitted bigint NOT NULL,
    size bigint NOT NULL,
    recipients integer NOT NULL,
    priority integer NOT NULL,
    ret text,
    envid text,
    name text COLLATE "C" NOT NULL,
    origin text COLLATE "C" NOT NULL,
    options text
);

-- A recipient without an end: inserted once, changed when it is deferred, deleted at its end. Of an upload that is not
-- accepted yet there is no message; hold -1099511627776 has what is let go after its upload was accepted.
CREATE TABLE zsmtp_recipient (
    message bigint NOT NULL,
    number integer NOT NULL,
    address text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    rank integer NOT NULL,
    due bigint NOT NULL,
    expires bigint NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    notify text,
    orcpt text,
    hold bigint NOT NULL DEFAULT 0,
    warned boolean NOT NULL DEFAULT false,
    doubtful boolean NOT NULL DEFAULT false,
    status text COLLATE "C" NOT NULL DEFAULT '',
    reason text COLLATE "C" NOT NULL DEFAULT '',
    PRIMARY KEY (message, number)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- Claims: the order within a sub-queue.
CREATE INDEX zsmtp_work ON zsmtp_recipient (key, tenant, rank, due, message, number) WHERE hold = 0;
-- What a rule holds, for its release and for counting.
CREATE INDEX zsmtp_held ON zsmtp_recipient (hold, key, tenant) WHERE hold <> 0;

-- The content in parts of 256 KiB. It is not compressed: mail in base64 does not become smaller.
CREATE TABLE zsmtp_content (
    message bigint NOT NULL,
    part integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (message, part)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000);
ALTER TABLE zsmtp_content ALTER COLUMN data SET STORAGE EXTERNAL;

-- Uploads on their way in (accepted false), and those whose recipients are being let go. touched is by the clock of
-- whoever writes it, in milliseconds.
CREATE TABLE zsmtp_upload (
    message bigint PRIMARY KEY,
    touched bigint NOT NULL,
    accepted boolean NOT NULL DEFAULT false,
    released integer NOT NULL DEFAULT 0
);

-- Attempts and ends, by the day on which they were written: what is too old is dropped day by day.
CREATE TABLE zsmtp_history (
    written date NOT NULL DEFAULT (zsmtp_clock() AT TIME ZONE 'UTC')::date,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint NOT NULL DEFAULT nextval('zsmtp_entry'),
    at bigint NOT NULL,
    message bigint NOT NULL,
    number integer NOT NULL,
    attempt integer NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    sender text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    seconds bigint NOT NULL,
    status text COLLATE "C" NOT NULL,
    code integer NOT NULL,
    reason text COLLATE "C" NOT NULL,
    server text NOT NULL,
    tls text NOT NULL,
    node text NOT NULL,
    by_whom text NOT NULL,
    PRIMARY KEY (id, written)
) PARTITION BY RANGE (written);
CREATE INDEX zsmtp_history_xid ON zsmtp_history (xid, id);
CREATE INDEX zsmtp_history_message ON zsmtp_history (message);

-- Make the partition of a day. It is attached when it is made, which keeps nobody from reading or writing.
CREATE FUNCTION zsmtp_make_day(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := 'zsmtp_history_' || to_char(day, 'YYYYMMDD');
BEGIN
    PERFORM pg_advisory_xact_lock(('zsmtp_id'::regclass::oid::bigint % 2147483647)::integer, 2);
    IF to_regclass(name) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE zsmtp_history INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
        EXECUTE format('ALTER TABLE zsmtp_history ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, day, day + 1);
    END IF;
END
$$;

-- Notices owed to senders.
CREATE TABLE zsmtp_owed (
    message bigint NOT NULL,
    number integer NOT NULL,
    kind text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    address text COLLATE "C" NOT NULL,
    orcpt text,
    status text NOT NULL,
    code integer NOT NULL,
    reason text NOT NULL,
    server text NOT NULL,
    expires bigint NOT NULL,
    last_attempt bigint NOT NULL,
    PRIMARY KEY (message, number, kind)
);

-- Messages that may have had their last end: the sweep looks whether anything of them is left.
CREATE TABLE zsmtp_maybe_finished (
    message bigint NOT NULL
);

-- Processes that deliver. Their leases are good until valid_until; incarnation is that of the server on which their
-- marks are known to be.
CREATE TABLE zsmtp_node (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    joined bigint NOT NULL,
    valid_until timestamptz NOT NULL,
    draining boolean NOT NULL DEFAULT false,
    incarnation text NOT NULL
) WITH (fillfactor = 50);

-- Who delivers to which site. number is the fence: it only grows, and whoever writes a mark or a result locks this row.
CREATE TABLE zsmtp_lease (
    site text COLLATE "C" PRIMARY KEY,
    number bigint NOT NULL UNIQUE,
    node bigint NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX zsmtp_lease_node ON zsmtp_lease (node);

-- The queue keys of leases.
CREATE TABLE zsmtp_lease_key (
    key text COLLATE "C" PRIMARY KEY,
    lease bigint NOT NULL
);
CREATE INDEX zsmtp_lease_key_lease ON zsmtp_lease_key (lease);

-- Attempts that may have completed at a server, many in a row, which the owner of the lease numbers. Only those count
-- that are the next of their recipient.
CREATE TABLE zsmtp_mark (
    lease bigint NOT NULL,
    mark integer NOT NULL,
    messages bigint[] NOT NULL,
    numbers integer[] NOT NULL,
    attempts integer[] NOT NULL,
    PRIMARY KEY (lease, mark)
);

-- What is in hand of a lease, since its last results.
CREATE TABLE zsmtp_in_hand (
    lease bigint PRIMARY KEY,
    messages bigint[] NOT NULL,
    numbers integer[] NOT NULL,
    attempts integer[] NOT NULL
) WITH (fillfactor = 50);

-- Attempts whose owner is gone and whose result is not known; machine: they were only in hand when the server died.
CREATE TABLE zsmtp_doubt (
    message bigint NOT NULL,
    number integer NOT NULL,
    attempt integer NOT NULL,
    machine boolean NOT NULL,
    PRIMARY KEY (message, number)
);

-- What became new or was changed, for those who deliver. due NULL: only poked; key NULL: rules changed.
CREATE TABLE zsmtp_news (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT zsmtp_clock(),
    keys text[] COLLATE "C" NOT NULL,
    due bigint[] NOT NULL,
    poked text[] COLLATE "C" NOT NULL,
    rules boolean NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX zsmtp_news_xid ON zsmtp_news (xid);

-- How nodes serve their sites, as JSON.
CREATE TABLE zsmtp_site_status (
    site text COLLATE "C" PRIMARY KEY,
    updated bigint NOT NULL,
    status text NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE zsmtp_site (
    key text COLLATE "C" PRIMARY KEY,
    site text COLLATE "C" NOT NULL
);
CREATE INDEX zsmtp_site_keys ON zsmtp_site (site);

CREATE TABLE zsmtp_rule (
    number integer PRIMARY KEY,
    action text NOT NULL,
    filter text NOT NULL,
    argument text NOT NULL,
    until bigint,
    by_whom text NOT NULL,
    reason text NOT NULL,
    created bigint NOT NULL
);

CREATE TABLE zsmtp_idempotency (
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    message bigint NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX zsmtp_idempotency_message ON zsmtp_idempotency (message);

-- What was added to counters, a row for each transaction; the sweep sums them up.
CREATE TABLE zsmtp_counter (
    names text[] NOT NULL,
    amounts bigint[] NOT NULL
);

-- Recipients as they are.
CREATE FUNCTION zsmtp_current(messages bigint[], numbers integer[])
RETURNS TABLE (message bigint, number integer, key text, attempts integer, due bigint, expires bigint, hold bigint,
    doubtful boolean, warned boolean)
LANGUAGE sql STABLE AS $$
    SELECT r.message, r.number, r.key, r.attempts, r.due, r.expires, r.hold, r.doubtful, r.warned
    FROM unnest(messages, numbers) AS w (message, number)
    JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number
$$;

-- Those of the leases that a node still has, locked until the transaction ends; for how long the node is good, judged
-- after the lock; and recipients as they are after it. One row at least.
CREATE FUNCTION zsmtp_lock(of_node bigint, leases bigint[], messages bigint[], numbers integer[])
RETURNS TABLE (owned bigint[], seconds_left double precision, same_server boolean, message bigint, number integer,
    key text, attempts integer, due bigint, expires bigint, hold bigint, doubtful boolean, warned boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    had bigint[];
    seconds double precision;
    same boolean;
BEGIN
    had := ARRAY(
        SELECT l.number FROM zsmtp_lease l WHERE l.number = ANY(leases) AND l.node = of_node
        ORDER BY l.number FOR NO KEY UPDATE
    );
    SELECT extract(epoch FROM n.valid_until - zsmtp_clock()), n.incarnation = zsmtp_incarnation()
        INTO seconds, same FROM zsmtp_node n WHERE n.id = of_node;
    RETURN QUERY SELECT had, seconds, same, c.*
        FROM (SELECT 1) AS one LEFT JOIN zsmtp_current(messages, numbers) AS c ON true;
END
$$;
