-- The journal: log, outbox and audit trail. Leaves stand before bodies, so that proofs read no body.
CREATE TABLE entries (
    seq   INTEGER PRIMARY KEY,
    at    INTEGER NOT NULL,
    actor TEXT    NOT NULL,
    kind  TEXT    NOT NULL,
    turn  BLOB    NOT NULL,
    leaf  BLOB    NOT NULL,
    body  BLOB    NOT NULL
) STRICT;
-- One row: where the journal stands, written with every turn. `beat` counts commits that proved the store without an entry.
CREATE TABLE head (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    journal BLOB    NOT NULL,
    epoch   INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    root    BLOB    NOT NULL,
    peaks   BLOB    NOT NULL,
    beat    INTEGER NOT NULL
) STRICT;

-- Projections: what people query, made from entries by `rows.rs` and made again by `rebuild`. Words stay in the entries.
CREATE TABLE grants (
    id        BLOB    PRIMARY KEY,
    identity  TEXT    NOT NULL,
    task      TEXT    NOT NULL,
    resource  TEXT    NOT NULL,
    scopes    TEXT    NOT NULL,
    requested INTEGER NOT NULL,
    asked_at  INTEGER NOT NULL,
    activated INTEGER NOT NULL,
    ended     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_by_identity ON grants (identity, id);
-- The few that have not ended, among the many that have.
CREATE INDEX grants_live ON grants (id) WHERE ended = 0;
-- Which entries speak of a grant, besides the ones that its row names.
CREATE TABLE concerns (
    grant_id BLOB    NOT NULL,
    seq      INTEGER NOT NULL,
    PRIMARY KEY (grant_id, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE approvals (
    grant_id BLOB    NOT NULL,
    person   TEXT    NOT NULL,
    seq      INTEGER NOT NULL,
    PRIMARY KEY (grant_id, person)
) STRICT, WITHOUT ROWID;
CREATE TABLE cut_offs (
    seq  INTEGER PRIMARY KEY
) STRICT;
CREATE TABLE identities (
    name         TEXT    PRIMARY KEY,
    last_granted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
