-- Parts of sites (zsmtp.queue.slots): a site may have several leases, each with some of its slots.

-- slots is a bit mask; those of the leases of a site are disjoint. An earlier program leases a site only if no lease of
-- it is there, with all slots.
ALTER TABLE zsmtp_lease ADD COLUMN slots integer NOT NULL DEFAULT 65535;
ALTER TABLE zsmtp_lease DROP CONSTRAINT zsmtp_lease_pkey, DROP CONSTRAINT zsmtp_lease_number_key, ADD PRIMARY KEY (number);
CREATE INDEX zsmtp_lease_site ON zsmtp_lease (site);

-- A queue key belongs to the site that it was leased with as long as that has any lease. lease is for earlier programs.
ALTER TABLE zsmtp_lease_key ADD COLUMN site text COLLATE "C";
UPDATE zsmtp_lease_key k SET site = l.site FROM zsmtp_lease l WHERE l.number = k.lease;
DELETE FROM zsmtp_lease_key WHERE site IS NULL;
ALTER TABLE zsmtp_lease_key ALTER COLUMN site SET NOT NULL;
CREATE INDEX zsmtp_lease_key_site ON zsmtp_lease_key (site);

-- The site of rows that an earlier program inserts.
CREATE FUNCTION zsmtp_site_of_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT l.site INTO NEW.site FROM zsmtp_lease l WHERE l.number = NEW.lease;
    RETURN NEW;
END
$$;
CREATE TRIGGER zsmtp_site_of_lease BEFORE INSERT ON zsmtp_lease_key FOR EACH ROW WHEN (NEW.site IS NULL)
    EXECUTE FUNCTION zsmtp_site_of_lease();

-- While a site has another lease its keys stay: an earlier program deletes those that it ends a lease with.
CREATE FUNCTION zsmtp_keep_lease_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM zsmtp_lease l WHERE l.site = OLD.site AND l.number <> OLD.lease) THEN
        RETURN NULL;
    END IF;
    RETURN OLD;
END
$$;
CREATE TRIGGER zsmtp_keep_lease_key BEFORE DELETE ON zsmtp_lease_key FOR EACH ROW
    EXECUTE FUNCTION zsmtp_keep_lease_key();

-- Whether the program of a node knows parts: no site is divided while a live one does not.
ALTER TABLE zsmtp_node ADD COLUMN parts boolean NOT NULL DEFAULT false;

-- How nodes serve their parts of sites, as JSON. Earlier programs report in zsmtp_site_status, one row for each site.
CREATE TABLE zsmtp_part_status (
    site text COLLATE "C" NOT NULL,
    node bigint NOT NULL,
    updated bigint NOT NULL,
    status text NOT NULL,
    PRIMARY KEY (site, node)
) WITH (fillfactor = 50);

-- As zsmtp_lock, with the slots of the leases.
CREATE FUNCTION zsmtp_lock_parts(of_node bigint, leases bigint[], messages bigint[], numbers integer[])
RETURNS TABLE (owned bigint[], slots integer[], seconds_left double precision, same_server boolean, message bigint,
    number integer, key text, attempts integer, due bigint, expires bigint, hold bigint, doubtful boolean, warned boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    had bigint[];
    parts integer[];
    seconds double precision;
    same boolean;
BEGIN
    SELECT coalesce(array_agg(l.number), '{}'), coalesce(array_agg(l.slots), '{}') INTO had, parts FROM (
        SELECT t.number, t.slots FROM zsmtp_lease t WHERE t.number = ANY(leases) AND t.node = of_node
        ORDER BY t.number FOR NO KEY UPDATE
    ) AS l;
    SELECT extract(epoch FROM n.valid_until - zsmtp_clock()), n.incarnation = zsmtp_incarnation()
        INTO seconds, same FROM zsmtp_node n WHERE n.id = of_node;
    RETURN QUERY SELECT had, parts, seconds, same, c.*
        FROM (SELECT 1) AS one LEFT JOIN zsmtp_current(messages, numbers) AS c ON true;
END
$$;
