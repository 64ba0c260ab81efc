-- Beside the log: what gateways say was done, in counts. It is no evidence and no projection: nothing makes it again.
-- Of a grant, by operation: `scope` allowed it, or `refusal` is why it was not (one of the two is empty).
CREATE TABLE usage (
    grant_id  BLOB    NOT NULL,
    operation TEXT    NOT NULL,
    scope     TEXT    NOT NULL,
    refusal   TEXT    NOT NULL,
    count     INTEGER NOT NULL,
    first     INTEGER NOT NULL,
    last      INTEGER NOT NULL,
    PRIMARY KEY (grant_id, operation, scope, refusal)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_by_last ON usage (last);
-- Of an identity: the same over all its grants, for longer.
CREATE TABLE usage_scopes (
    identity  TEXT    NOT NULL,
    resource  TEXT    NOT NULL,
    scope     TEXT    NOT NULL,
    operation TEXT    NOT NULL,
    count     INTEGER NOT NULL,
    first     INTEGER NOT NULL,
    last      INTEGER NOT NULL,
    PRIMARY KEY (identity, resource, scope, operation)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_scopes_by_last ON usage_scopes (last);
-- Of an identity, by hour since 1970: what is usual for it.
CREATE TABLE usage_hours (
    identity TEXT    NOT NULL,
    hour     INTEGER NOT NULL,
    allowed  INTEGER NOT NULL,
    refused  INTEGER NOT NULL,
    PRIMARY KEY (identity, hour)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_hours_by_hour ON usage_hours (hour);
-- How far each instance of a gateway was counted: a report that comes again is not counted again.
CREATE TABLE usage_reports (
    gateway  TEXT    NOT NULL,
    instance TEXT    NOT NULL,
    report   INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    dropped  INTEGER NOT NULL,
    PRIMARY KEY (gateway, instance)
) STRICT, WITHOUT ROWID;
