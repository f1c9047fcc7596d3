-- The queue. Every name begins with zsmtp_, because the file may be an application's own.
-- Times are milliseconds since 1970, ids as in zsmtp.queue.ids; texts are UTF-8 without NUL.

-- Single values: last_id, fence, shard, rules and poke (numbers that grow with each change of them).
CREATE TABLE zsmtp_meta (
    name TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- A message as it was accepted: written once, deleted after the last end and the last notice.
CREATE TABLE zsmtp_message (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    sender TEXT NOT NULL,
    submitted INTEGER NOT NULL,
    size INTEGER NOT NULL,
    recipients INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    ret TEXT,
    envid TEXT,
    name TEXT NOT NULL,
    origin TEXT NOT NULL,
    options TEXT
) STRICT;

-- A recipient without an end: inserted once, changed when it is deferred, deleted at its end. Of an upload that is not
-- accepted yet there is no message; hold -1099511627776 has what is let go after its upload was accepted.
CREATE TABLE zsmtp_recipient (
    message INTEGER NOT NULL,
    number INTEGER NOT NULL,
    address TEXT NOT NULL,
    key TEXT NOT NULL,
    tenant TEXT NOT NULL,
    rank INTEGER NOT NULL,
    due INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    notify TEXT,
    orcpt TEXT,
    hold INTEGER NOT NULL DEFAULT 0,
    warned INTEGER NOT NULL DEFAULT 0,
    doubtful INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (message, number)
) STRICT, WITHOUT ROWID;

-- Claims: the order within a sub-queue. SQLite would look for hold, which is always 0 there, in the table otherwise.
CREATE INDEX zsmtp_work ON zsmtp_recipient (key, tenant, rank, due, message, number, hold) WHERE hold = 0;
-- What a rule holds, for its release and for counting.
CREATE INDEX zsmtp_held ON zsmtp_recipient (hold, key, tenant) WHERE hold <> 0;

-- The content: the first 256 KiB here, the others below.
CREATE TABLE zsmtp_content (
    message INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE zsmtp_content_part (
    message INTEGER NOT NULL,
    part INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (message, part)
) STRICT;

-- Uploads on their way in (accepted 0), and those whose recipients are being let go (accepted 1).
CREATE TABLE zsmtp_upload (
    message INTEGER PRIMARY KEY,
    touched INTEGER NOT NULL,
    accepted INTEGER NOT NULL DEFAULT 0,
    released INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Attempts and ends, in the order in which they became visible.
CREATE TABLE zsmtp_history (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    message INTEGER NOT NULL,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    address TEXT NOT NULL,
    sender TEXT NOT NULL,
    key TEXT NOT NULL,
    tenant TEXT NOT NULL,
    seconds INTEGER NOT NULL,
    status TEXT NOT NULL,
    code INTEGER NOT NULL,
    reason TEXT NOT NULL,
    server TEXT NOT NULL,
    tls TEXT NOT NULL,
    node TEXT NOT NULL,
    by_whom TEXT NOT NULL
) STRICT;

CREATE INDEX zsmtp_history_message ON zsmtp_history (message);

-- Notices owed to senders.
CREATE TABLE zsmtp_owed (
    message INTEGER NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    at INTEGER NOT NULL,
    address TEXT NOT NULL,
    orcpt TEXT,
    status TEXT NOT NULL,
    code INTEGER NOT NULL,
    reason TEXT NOT NULL,
    server TEXT NOT NULL,
    expires INTEGER NOT NULL,
    last_attempt INTEGER NOT NULL,
    PRIMARY KEY (message, number, kind)
) STRICT, WITHOUT ROWID;

-- Messages that may have had their last end: the sweep looks whether anything of them is left.
CREATE TABLE zsmtp_maybe_finished (
    message INTEGER PRIMARY KEY
) STRICT;

-- Attempts that may have completed at a server, and attempts that were in hand, many in one row: message, number and
-- attempt as 64-bit integers, little-endian. Of a row only attempts that are the next of their recipient count.
CREATE TABLE zsmtp_mark (
    id INTEGER PRIMARY KEY,
    fence INTEGER NOT NULL,
    attempts BLOB NOT NULL
) STRICT;

CREATE TABLE zsmtp_in_hand (
    id INTEGER PRIMARY KEY,
    fence INTEGER NOT NULL,
    attempts BLOB NOT NULL
) STRICT;

-- Processes that delivered: what they had in hand counts if the machine they ran on was started anew since (boot).
CREATE TABLE zsmtp_node (
    fence INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    boot TEXT NOT NULL,
    joined INTEGER NOT NULL,
    sites INTEGER NOT NULL DEFAULT 0
) STRICT;

-- How the deliverer serves its sites, as JSON.
CREATE TABLE zsmtp_site_status (
    site TEXT PRIMARY KEY,
    updated INTEGER NOT NULL,
    status TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE zsmtp_site (
    key TEXT PRIMARY KEY,
    site TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX zsmtp_site_keys ON zsmtp_site (site);

CREATE TABLE zsmtp_rule (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    action TEXT NOT NULL,
    filter TEXT NOT NULL,
    argument TEXT NOT NULL,
    until INTEGER,
    by_whom TEXT NOT NULL,
    reason TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE zsmtp_idempotency (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    message INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX zsmtp_idempotency_message ON zsmtp_idempotency (message);

CREATE TABLE zsmtp_counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Queue keys that another process than the deliverer's changed: seq is the value of poke in zsmtp_meta then.
CREATE TABLE zsmtp_poke (
    key TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX zsmtp_poke_seq ON zsmtp_poke (seq);
