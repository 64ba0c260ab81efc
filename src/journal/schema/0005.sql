-- What a cut-off covers, so that of all that came after a grant only those are read that cover it. `migrate.rs` fills in the
-- rows that are there already: their entries say it.
ALTER TABLE cut_offs ADD COLUMN covers TEXT NOT NULL DEFAULT '';
CREATE INDEX cut_offs_by_covers ON cut_offs (covers, seq);
