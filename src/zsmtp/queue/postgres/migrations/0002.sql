-- Addresses that are not written to, by tenant: folded as zsmtp.queue.suppression does. An earlier program writes to them.
CREATE TABLE zsmtp_suppression (
    tenant text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    source text NOT NULL,
    at bigint NOT NULL,
    until bigint,
    PRIMARY KEY (tenant, address)
);
