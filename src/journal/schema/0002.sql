-- The few requests that waited for people, among the many that were granted at once.
CREATE INDEX grants_decided ON grants (identity, id) WHERE activated <> requested;
-- The reviews of emergencies that were closed.
CREATE INDEX reviews_closed ON entries (seq) WHERE kind = 'review.closed';
