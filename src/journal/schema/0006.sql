-- The few entries that put a bundle in force, to find the one that was so at another entry.
CREATE INDEX bundles_activated ON entries (seq) WHERE kind = 'bundle.activated';
