"""The registry's tables in both dialects of SQL, and the triggers that note every change of them.

Owns the definitions and their version. `change` names what has changed, never how: whoever follows it reads that thing
or channel again. A row of it that names nothing means that anything may have changed. `mark` is random: who finds the
row that he saw last, with its mark, knows that he follows the same history as before.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1

# Who was away for more changes than this reads everything again.
KEPT_CHANGES: Final = 10_000


SELECT_VERSION: Final = "SELECT version FROM registry"
PRUNE: Final = f"DELETE FROM change WHERE seq < (SELECT max(seq) FROM change) - {KEPT_CHANGES}"  # noqa: S608 - a constant

_MOMENT: Final = "[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9]*Z"

# The deletions of connections are for those who come by hand, for whom SQLite does not enforce foreign keys. Who comes
# with REPLACE deletes without any trigger: a book knows what follows when a key has another owner.
SQLITE: Final = f"""
CREATE TABLE registry (version INTEGER NOT NULL);
INSERT INTO registry VALUES ({VERSION});

CREATE TABLE thing (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36 AND id = lower(id)),
    name TEXT NOT NULL CHECK (typeof(name) = 'text' AND length(name) BETWEEN 1 AND 254),
    key_hash BLOB NOT NULL UNIQUE CHECK (typeof(key_hash) = 'blob' AND length(key_hash) = 32),
    metadata TEXT NOT NULL DEFAULT '{{}}' CHECK (json_valid(metadata)),
    enabled INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) CHECK (created GLOB '{_MOMENT}')
) WITHOUT ROWID;
CREATE INDEX thing_name ON thing (name);
CREATE INDEX thing_created ON thing (created, id);

CREATE TABLE channel (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36 AND id = lower(id)),
    name TEXT NOT NULL CHECK (typeof(name) = 'text' AND length(name) BETWEEN 1 AND 254),
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) CHECK (created GLOB '{_MOMENT}')
) WITHOUT ROWID;
CREATE INDEX channel_name ON channel (name);
CREATE INDEX channel_created ON channel (created, id);

CREATE TABLE connection (
    thing TEXT NOT NULL REFERENCES thing ON DELETE CASCADE,
    channel TEXT NOT NULL REFERENCES channel ON DELETE CASCADE,
    may_publish INTEGER NOT NULL DEFAULT 1 CHECK (may_publish IN (0, 1)),
    may_subscribe INTEGER NOT NULL DEFAULT 1 CHECK (may_subscribe IN (0, 1)),
    PRIMARY KEY (thing, channel)
) WITHOUT ROWID;
CREATE INDEX connection_channel ON connection (channel, thing);

CREATE TABLE change (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    mark BLOB NOT NULL DEFAULT (randomblob(16)),
    thing TEXT,
    channel TEXT
);
INSERT INTO change DEFAULT VALUES;

CREATE TRIGGER thing_inserted AFTER INSERT ON thing BEGIN
    INSERT INTO change (thing) VALUES (NEW.id);
END;
CREATE TRIGGER thing_updated AFTER UPDATE ON thing BEGIN
    INSERT INTO change (thing) VALUES (OLD.id);
    INSERT INTO change (thing) SELECT NEW.id WHERE NEW.id <> OLD.id;
END;
CREATE TRIGGER thing_deleted AFTER DELETE ON thing BEGIN
    INSERT INTO change (thing) VALUES (OLD.id);
    DELETE FROM connection WHERE thing = OLD.id;
END;

CREATE TRIGGER channel_inserted AFTER INSERT ON channel BEGIN
    INSERT INTO change (channel) VALUES (NEW.id);
    INSERT INTO change (thing) SELECT thing FROM connection WHERE channel = NEW.id;
END;
CREATE TRIGGER channel_updated AFTER UPDATE OF id ON channel BEGIN
    INSERT INTO change (channel) VALUES (OLD.id);
    INSERT INTO change (channel) VALUES (NEW.id);
    INSERT INTO change (thing) SELECT thing FROM connection WHERE channel IN (OLD.id, NEW.id);
END;
CREATE TRIGGER channel_deleted AFTER DELETE ON channel BEGIN
    INSERT INTO change (channel) VALUES (OLD.id);
    DELETE FROM connection WHERE channel = OLD.id;
END;

CREATE TRIGGER connection_inserted AFTER INSERT ON connection BEGIN
    INSERT INTO change (thing) VALUES (NEW.thing);
END;
CREATE TRIGGER connection_updated AFTER UPDATE ON connection BEGIN
    INSERT INTO change (thing) VALUES (OLD.thing);
    INSERT INTO change (thing) SELECT NEW.thing WHERE NEW.thing <> OLD.thing;
END;
CREATE TRIGGER connection_deleted AFTER DELETE ON connection BEGIN
    INSERT INTO change (thing) VALUES (OLD.thing);
END;
"""  # noqa: S608 - the values are the constants above
