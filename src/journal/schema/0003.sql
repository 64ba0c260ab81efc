-- Beside the log: whom the broker told of what. The entries alone are true; without these rows, messages are told again.
CREATE TABLE webhooks (
    name TEXT    PRIMARY KEY,
    told INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- What is told out of the log's order: at its time, or when somebody lets go of what was parked (`parked` > 0: since when).
CREATE TABLE webhook_later (
    webhook TEXT    NOT NULL,
    seq     INTEGER NOT NULL,
    kind    TEXT    NOT NULL,
    due     INTEGER NOT NULL,
    parked  INTEGER NOT NULL,
    tries   INTEGER NOT NULL,
    why     TEXT    NOT NULL,
    PRIMARY KEY (webhook, seq, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX webhook_due ON webhook_later (webhook, parked, due);
