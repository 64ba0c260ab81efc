//! Codes PT-01xx: the law says no.

crate::codes! {
    DENIED_BY_POLICY = "PT-0101", "policy refused the request",
        "no policy of the bundle in force permits all of the scopes that were asked for",
        "ask for what the verdict's remedy names, or have the bundle changed; `protem request --dry-run` explains";
    TASK_ENDED = "PT-0102", "the task has ended",
        "a task that was completed or abandoned takes no further requests", "begin a new task with another id";
    GRANT_ENDED = "PT-0103", "the grant has ended",
        "an ended grant gives no credential and cannot be decided", "ask again under a task that has not ended";
    UNKNOWN_TASK = "PT-0104", "there is no such task",
        "the task was never opened by this identity, or ended long enough ago to be forgotten",
        "check the id with `protem grants`, and that you sign in as the identity that opened it";
    UNKNOWN_GRANT = "PT-0105", "there is no such grant",
        "no grant of yours has this id", "check the id with `protem grants`";
    KEY_REUSED = "PT-0106", "the idempotency key was used with other content",
        "a `request_id` names one request for good", "send a fresh UUIDv7 with the changed request";
    KEY_TOO_OLD = "PT-0107", "the idempotency key is too old",
        "an unknown `request_id` more than 10 minutes old may have been used and forgotten",
        "send a fresh UUIDv7, and check this machine's clock";
    KEY_AHEAD = "PT-0108", "the idempotency key is from the future",
        "a `request_id` more than 4 minutes ahead comes from a machine whose clock is wrong",
        "set this machine's clock and send a fresh UUIDv7";
    TOO_MANY_ACTIVE = "PT-0109", "too many grants at once",
        "the identity holds as many live grants as its tier allows", "complete tasks that are done, or have the tier's `active_max` raised";
    TOO_MANY_PENDING = "PT-0110", "too many requests wait",
        "as many requests wait for approvers as the tier, or the broker, allows", "withdraw some, or wait until they are decided";
    QUARANTINED = "PT-0111", "the identity is in quarantine",
        "an operator ended its access and refuses new requests", "ask the identity's owners; `protem quarantine --lift` ends it";
    VERDICT_STALE = "PT-0112", "the rules changed while the request was decided",
        "the bundle or what policy looked at changed three times in a row", "try again";
    LIFETIME_OUT_OF_RANGE = "PT-0113", "the lifetime is out of range",
        "a lifetime is at least 10 seconds and at most what scope, tier and policy allow", "ask for a lifetime in range";
    LEASE_OUT_OF_RANGE = "PT-0114", "the lease is out of range",
        "a lease is 1 second to 5 minutes", "ask for a lease in range, or none for 15 seconds";
    HOLD_REPLACED = "PT-0115", "a newer stream holds the task",
        "one stream holds a task; the newest wins", "nothing: the newer one holds it";
    NOT_PENDING = "PT-0116", "the request no longer waits",
        "it was decided, withdrawn, or lapsed", "look at it with `protem grant ID`";
    DIGEST_CHANGED = "PT-0117", "the request changed since you looked",
        "a decision counts only for exactly what was shown", "look again and decide on what it says now";
    MAY_NOT_DECIDE = "PT-0118", "you may not decide this request",
        "policy lets other people decide, and never the requester or the people behind it", "ask one of the groups that the request names";
    NOT_NARROWER = "PT-0119", "an approver may narrow a request, never widen it",
        "the lifetime is longer, or a scope was not asked for", "choose among the scopes and the lifetime of the request";
    REASON_REQUIRED = "PT-0120", "a reason is required",
        "to deny, to revoke, to quarantine and to ask in an emergency need words that others can read later", "say why";
    NO_APPROVAL_TO_UNDO = "PT-0121", "there is no approval of yours to take back",
        "only the own approval of a waiting request can be taken back", "look at it with `protem grant ID`";
    REVIEW_OPEN = "PT-0122", "an emergency has not been reviewed",
        "the identity's last emergency awaits a review, which blocks the next", "have someone close it with `protem review`";
    NO_REVIEW = "PT-0123", "there is no open review",
        "the grant was no emergency, or its review is closed", "list open ones with `protem review`";
    BUNDLE_MOVED = "PT-0124", "another bundle is in force",
        "the bundle changed since the digest that you expect", "fetch the bundle in force, merge, and apply again";
    UNKNOWN_KEY = "PT-0125", "there is no such signing key",
        "no key with this id was ever published here", "list them with `protem keys list`";
    KEY_STATE = "PT-0126", "the signing key is not in that state",
        "a key is published, then signs, then is retired; a cut-off key never signs again", "list them with `protem keys list`";
    NO_SIGNING_KEY = "PT-0127", "no key may sign",
        "every credential key is retired or cut off, so nothing can be issued", "wait for the next key, or rotate with `protem keys rotate`";
    ALREADY_OPEN = "PT-0128", "the journal is already open",
        "a journal is opened once, and epochs only rise", "nothing";
    TOO_MANY_LIVE = "PT-0129", "the broker holds as many grants as it may",
        "the number of live grants in one journal is limited", "try again when some have ended, or run one more region";
    REQUEST_MISMATCH = "PT-0130", "the verdict is about another request",
        "a verdict counts for exactly the request that policy looked at", "this is a defect; report it";
    TOO_MANY_TASKS = "PT-0131", "too many tasks are open",
        "an identity may hold a limited number of tasks without grants", "complete tasks that are done";
    STILL_PENDING = "PT-0132", "the request still waits",
        "a request that waits for approvers has no credential yet", "wait for it with `protem wait GRANT`";
    TOO_MANY_KEYS = "PT-0133", "one grant was asked for under too many keys",
        "a grant answers 64 idempotency keys; a client that makes a new one for each try fills the memory",
        "repeat a request with the `request_id` that it had, or with none";
    TOO_MANY_SIGNING_KEYS = "PT-0134", "too many signing keys are known",
        "keys come faster than the tokens that the earlier ones signed die; a gateway holds a limited set",
        "raise `keys.rotate_every`, or shorten the tiers' `credential`; rotation goes on by itself when earlier keys are forgotten";
    MAY_NOT_REVIEW = "PT-0135", "this review is not yours to close",
        "an emergency is looked at by people whom policy permits to `review` and who do not answer for its identity",
        "have somebody else close it with `protem review`";
    NARROWER_REFUSED = "PT-0136", "policy grants nothing so narrow",
        "what would be left of the request is refused by a policy that the whole is not; the request waits as it was", "narrow it in another way, or decide on it as it is";
}
