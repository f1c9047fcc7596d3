-- Bodies whose last part is a file in the shared folder (zsmtp.queue.postgres.bodies), for uploads, too. The parts from
-- first on are in the file. zsmtp_meta has the folder (bodies) and the size of what stays in rows (bodies_above).
CREATE TABLE zsmtp_body (
    message bigint PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    first integer NOT NULL
);

-- What tells this database from others, and from copies of it that a dump or a template made.
CREATE FUNCTION zsmtp_owner() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT m.value || ' ' || c.system_identifier || ' ' || d.oid
    FROM zsmtp_meta m, pg_control_system() c, pg_database d WHERE m.name = 'uid' AND d.datname = current_database()
$$;
