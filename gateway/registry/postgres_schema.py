"""The registry's tables in PostgreSQL: those of `schema`, in a schema of their own.

The triggers are per statement, and write into `change` what an import of a thousand rows has changed in one go. Unlike
SQLite's writers, PostgreSQL's end in another order than they began in: `xid` is the transaction that wrote the row, and
whoever follows asks for those that were not over when he last looked (PostgreSQL, 9.27.10: pg_current_xact_id and
pg_current_snapshot).
"""

from __future__ import annotations

from typing import Final

from gateway.registry.schema import VERSION

# The tables' own schema, and what is notified.
SCHEMA: Final = "securegw"
NOTIFIED: Final = "securegw_registry"

# Whoever makes the registry at the same time waits for this lock, and then finds it made.
LOCK: Final = 0x73656375

# Whoever may only take a name that nobody has waits for this one, and then sees who has it.
ALONE: Final = 0x73656376

# Not to_regclass: in a session that has looked before, it may not see what others have made since.
IS_MADE: Final = f"SELECT 1 FROM pg_tables WHERE schemaname = '{SCHEMA}' AND tablename = 'registry'"  # noqa: S608 - constants

_TABLES: Final = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};

CREATE TABLE {SCHEMA}.registry (version integer NOT NULL);
INSERT INTO {SCHEMA}.registry VALUES ({VERSION});

CREATE TABLE {SCHEMA}.thing (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 254),
    key_hash bytea NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    metadata json NOT NULL DEFAULT '{{}}',
    enabled boolean NOT NULL DEFAULT true,
    created timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX thing_name ON {SCHEMA}.thing (name);
CREATE INDEX thing_created ON {SCHEMA}.thing (created, id);

CREATE TABLE {SCHEMA}.channel (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 254),
    created timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX channel_name ON {SCHEMA}.channel (name);
CREATE INDEX channel_created ON {SCHEMA}.channel (created, id);

CREATE TABLE {SCHEMA}.connection (
    thing uuid NOT NULL REFERENCES {SCHEMA}.thing ON DELETE CASCADE,
    channel uuid NOT NULL REFERENCES {SCHEMA}.channel ON DELETE CASCADE,
    may_publish boolean NOT NULL DEFAULT true,
    may_subscribe boolean NOT NULL DEFAULT true,
    PRIMARY KEY (thing, channel)
);
CREATE INDEX connection_channel ON {SCHEMA}.connection (channel, thing);

CREATE TABLE {SCHEMA}.change (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mark uuid NOT NULL DEFAULT gen_random_uuid(),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    thing uuid,
    channel uuid
);
INSERT INTO {SCHEMA}.change DEFAULT VALUES;

-- Its arguments: the column of the table that says what has changed, and the one of `change` that it goes to.
CREATE FUNCTION {SCHEMA}.note_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        EXECUTE format('INSERT INTO {SCHEMA}.change (%I) SELECT DISTINCT %I FROM new_rows', TG_ARGV[1], TG_ARGV[0]);
    END IF;
    IF TG_OP IN ('DELETE', 'UPDATE') THEN
        EXECUTE format('INSERT INTO {SCHEMA}.change (%I) SELECT DISTINCT %I FROM old_rows', TG_ARGV[1], TG_ARGV[0]);
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {SCHEMA}.change DEFAULT VALUES;
    END IF;
    PERFORM pg_notify('{NOTIFIED}', '');
    RETURN NULL;
END
$$;
"""  # noqa: S608 - the values are the constants above


def _triggers(table: str, column: str, noted: str) -> str:
    """PostgreSQL allows a trigger with transition tables one kind of event only."""
    rows = {
        "INSERT": "REFERENCING NEW TABLE AS new_rows",
        "UPDATE": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
        "DELETE": "REFERENCING OLD TABLE AS old_rows",
        "TRUNCATE": "",
    }
    return "".join(
        f"CREATE TRIGGER {table}_{event.lower()} AFTER {event} ON {SCHEMA}.{table} {referencing} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.note_change('{column}', '{noted}');\n"
        for event, referencing in rows.items()
    )


POSTGRES: Final = (
    _TABLES
    + _triggers("thing", "id", "thing")
    + _triggers("channel", "id", "channel")
    + _triggers("connection", "thing", "thing")
)
