-- Addresses that are not written to, by tenant: folded as zsmtp.queue.suppression does. An earlier program writes to them.
CREATE TABLE zsmtp_suppression (
    tenant TEXT NOT NULL,
    address TEXT NOT NULL,
    reason TEXT NOT NULL,
    source TEXT NOT NULL,
    at INTEGER NOT NULL,
    until INTEGER,
    PRIMARY KEY (tenant, address)
) STRICT, WITHOUT ROWID;
