//! Every limit at the door, each with its reason.

use std::time::Duration;

/// The largest message that is received: no request needs more, and what is read before it is understood costs memory.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// The largest message that `BundleService` receives, after authentication only: a bundle of 16 MiB and its names.
pub const BUNDLE_MESSAGE_MAX: usize = 17 * 1024 * 1024;
/// The largest bundle: about 50,000 identities.
pub const BUNDLE_MAX: usize = 16 * 1024 * 1024;
/// Files in one bundle.
pub const BUNDLE_FILES_MAX: usize = 4_096;
/// A request's headers, all together: a caller token and some metadata.
pub const HEADER_LIST_MAX: u32 = 16 * 1024;
/// The headers of an HTTP/1 request: the same.
pub const HTTP1_BUFFER_MAX: usize = 16 * 1024;
/// Streams on one connection: what a busy client multiplexes; hyper's own default is 200, tonic's none.
pub const STREAMS_MAX: u32 = 100;
/// Streams reset by the peer that may wait to be accepted (CVE-2023-44487, rapid reset).
pub const PENDING_RESETS_MAX: usize = 20;
/// Streams that our side may reset for a peer's errors before the connection ends (RUSTSEC-2024-0003).
pub const LOCAL_RESETS_MAX: usize = 1_024;
/// How often a silent connection is asked whether it lives: half-open ones are found within 15 s.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
/// How long it may take to say so.
pub const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection lives, give or take a fifth: load spreads over brokers again, and not all at once.
pub const CONNECTION_AGE: Duration = Duration::from_secs(60 * 60);
/// How long the streams of an aged or draining connection may take to end.
pub const GRACE: Duration = Duration::from_secs(10);
/// Connections in all: gateways and workloads of one region; each costs a few KiB and a file descriptor.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Of these, for gateways, people and whoever has not signed in yet: whatever workloads do, a gateway comes back and an operator
/// can stop them.
pub const CONNECTIONS_RESERVED: usize = 2_048;
/// Connections of one identity, beside one for each grant that its tier lets it hold at once: a job has one of its own.
pub const CONNECTIONS_OF_IDENTITY: usize = 64;
/// The most of these, whatever its tier says: a quarter of all.
pub const CONNECTIONS_OF_IDENTITY_MAX: usize = 4_096;
/// Connections of all processes of one gateway: 64 replicas with two each, and as many that are half-open until it is noticed.
pub const CONNECTIONS_OF_GATEWAY_MAX: usize = 256;
/// Connections of one person: some browsers and terminals.
pub const CONNECTIONS_OF_PERSON_MAX: usize = 64;
/// Connections of one address (or IPv6 network) on which nobody has signed in: many workloads share a node's address, but sign in at once.
pub const STRANGERS_MAX: usize = 256;
/// How long each of these has at least, when its place is wanted: two round trips around the world.
pub const STRANGER_LEAST: Duration = Duration::from_secs(1);
/// How long a connection may stay without anybody signing in (slow-loris).
pub const STRANGER_FOR: Duration = Duration::from_secs(60);
/// The pause when the process is out of file descriptors: accepting again at once would only spin (RUSTSEC-2024-0376's kin).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a call may take until its first answer; its command is finished all the same.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The same for calls that check a whole bundle.
pub const BUNDLE_WITHIN: Duration = Duration::from_secs(60);
/// The same for usage reports: nobody waits for them, and 64 of them are written one after another.
pub const USAGE_WITHIN: Duration = Duration::from_secs(30);
/// The longest that a caller may wait for enforcement: the greatest staleness, its margin and a little.
pub const WAIT_MAX: Duration = Duration::from_secs(75);
/// Ordinary calls in flight: the sequencer's queue and some readers' worth.
pub const CALLS_MAX: usize = 8_192;
/// Calls in flight that end access: they have a lane of their own, so no flood of the others delays them.
pub const ENDING_CALLS_MAX: usize = 4_096;
/// The same for people alone, when workloads have taken all others: an operator's `Revoke` is what a flood calls for.
pub const ENDING_CALLS_RESERVED: usize = 512;
/// The same of one caller: a fleet's worth that ends at once, and a sixteenth of all places.
pub const ENDING_CALLS_OF_ONE_MAX: usize = 256;
/// Calls that have ended a task and wait for gateways: each costs a look a few times a second.
pub const WAITS_MAX: usize = 4_096;
/// The same of one caller: as many as it may end at once.
pub const WAITS_OF_ONE_MAX: usize = 256;
/// Revocations whose receipts are followed: each is told of all gateways again and again.
pub const FOLLOWED_MAX: usize = 1_024;
/// The same of one person: as many as they may have streams open.
pub const FOLLOWED_OF_ONE_MAX: usize = 64;
/// How long who waits for gateways is left as it is after a look: a fleet acknowledges within less, and people see no difference.
pub const ENFORCEMENT_PAUSE: Duration = Duration::from_millis(50);
/// Receipts for which a follower of a revocation waits one such pause until it is told again of all of them.
pub const RECEIPTS_A_PAUSE: usize = 64;
/// Calls in flight of who has not signed in, from everywhere: health probes, which are answered at once. None of them takes a
/// place of those who have.
pub const STRANGERS_CALLS_MAX: usize = 1_024;
/// The same of one address (or IPv6 network): the probes that one balancer or node sends at once, and a sixteenth of all places.
pub const STRANGERS_CALLS_OF_ONE_MAX: usize = 64;
/// How long such a call may take until its first answer, and so how soon its body must have come: as long as probes wait by default.
pub const STRANGERS_CALL_WITHIN: Duration = Duration::from_secs(1);
/// When to come back after the broker was busy.
pub const BUSY_RETRY: Duration = Duration::from_millis(250);
/// How long a call waits for a broker that has just started and loads its state, before it is told to come back.
pub const LOADED_WITHIN: Duration = Duration::from_secs(2);
/// When to come back after a fault: it takes a moment until a store answers again.
pub const FAULT_RETRY: Duration = Duration::from_secs(1);
/// One more approval of a person: whoever reads what it is about takes longer.
pub const APPROVALS_EVERY: Duration = Duration::from_secs(2);
/// Approvals of a person at once: a queue that was walked through on paper before.
pub const APPROVALS_BURST: u32 = 30;
/// Failed sign-ins a second and address; beyond it no signature is looked at.
pub const FAILED_SIGN_INS_RATE: u32 = 5;
/// Failed sign-ins at once: a fleet behind one address that was rolled out with a wrong audience still gets told why.
pub const FAILED_SIGN_INS_BURST: u32 = 50;
/// Ends that are refused to one caller, and tokens that it has found, a second: beyond it nothing that ends others' access is
/// looked at, so that nobody tries out what there is. Ends that succeed are never counted.
pub const GUESSES_RATE: u32 = 5;
/// The same at once: somebody in a hurry who mistypes, and a scanner that has found a repository full of tokens.
pub const GUESSES_BURST: u32 = 100;
/// Addresses and identities that the rate limits remember before they are tidied.
pub const RATE_KEYS_MAX: usize = 100_000;
/// The longest caller token, looked at before anything is split (CVE-2025-30204).
pub const TOKEN_MAX: usize = 8 * 1024;
/// Verified caller tokens that are remembered.
pub const TOKENS_REMEMBERED_MAX: usize = 65_536;
/// How far an issuer's clock may run ahead for `nbf` and `iat`; `exp` has no leeway.
pub const CLOCK_LEEWAY: Duration = Duration::from_secs(5);
/// Keys in one JWKS file.
pub const JWKS_KEYS_MAX: usize = 32;
/// A JWKS file.
pub const JWKS_MAX: usize = 64 * 1024;
/// How long fetched keys are taken for fresh when the issuer does not say; they are fetched again after half of it.
pub const KEYS_FRESH: Duration = Duration::from_secs(5 * 60);
/// The least that an issuer's `Cache-Control` may say: nobody makes the broker ask all the time.
pub const KEYS_FRESH_LEAST: Duration = Duration::from_secs(60);
/// The most: a key that was taken back is noticed within half an hour.
pub const KEYS_FRESH_MOST: Duration = Duration::from_secs(60 * 60);
/// How long the last good keys of an issuer that cannot be reached let people in; longer than its restart, and short enough
/// for a key that was taken back meanwhile.
pub const KEYS_KEPT: Duration = Duration::from_secs(60 * 60);
/// How often an unknown `kid` may have an issuer's keys fetched again: its tokens cost nothing to make up.
pub const UNKNOWN_KEY_EVERY: Duration = Duration::from_secs(30);
/// The first pause after a failed fetch; each further one doubles it.
pub const FETCH_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failed fetches: an issuer that is back is noticed within a minute.
pub const FETCH_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a login waits for its own issuer's keys, and for no other's.
pub const ISSUER_WAIT: Duration = Duration::from_secs(3);
/// Logins that wait for one issuer; more are told to come back.
pub const ISSUER_WAITING_MAX: usize = 64;
/// A file with the token that an issuer wants to see.
pub const BEARER_MAX: u64 = 16 * 1024;
/// How long fetching an issuer's keys may take, from reading its token to the last byte: two documents, each with a limit of
/// its own, and a file that may lie on a network.
pub const FETCH_WITHIN: Duration = Duration::from_secs(10);
/// How deep a token's JSON may nest.
pub const JSON_DEPTH_MAX: usize = 16;
/// Members and items of a token's JSON, all together: a person may be in a few hundred groups.
pub const JSON_ITEMS_MAX: usize = 1_024;
/// Grants on one page.
pub const PAGE_MAX: u32 = 1_000;
/// Grants on a page whose size was not said.
pub const PAGE_DEFAULT: u32 = 100;
/// How long an open list of what waits is left as it is after a change: a new bundle changes a thousand requests at once.
pub const PENDING_PAUSE: Duration = Duration::from_millis(100);
/// Journal entries read at once for a stream.
pub const JOURNAL_CHUNK: u32 = 256;
/// How often who follows the journal of one grant looks whether something concerns it that does not change it, as a cut-off:
/// the rest is told at once.
pub const GRANT_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Resources that a subscriber may name.
pub const RESOURCES_MAX: usize = 1_000;
/// Grants that a dry run of a bundle shows.
pub const WOULD_END_MAX: usize = 100;
/// How long gateways, and whoever else is left, may take to go at the end of a drain: no proof reaches them meanwhile.
pub const FAREWELL: Duration = Duration::from_secs(1);
/// When clients of a draining broker come back: spread by the gateway's own jitter.
pub const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// Streams of answers that one identity or person may have open, and as many subscriptions of the feed; held tasks are
/// counted apart.
pub const STREAMS_OF_ONE_MAX: usize = 64;
/// Streams that hold tasks of one identity: twice the tasks that it may hold, so that a fleet which comes back gets in before
/// the streams of its lost connections are noticed.
pub const HOLDS_OF_ONE_MAX: usize = 20_000;
/// Answers that may wait for a slow reader of one of our own streams.
pub const STREAM_BUFFER: usize = 16;
/// Items in one answer to a poller; who is further behind subscribes.
pub const HEAD_ITEMS_MAX: usize = 10_000;
/// The name that tells a gateway's replicas apart.
pub const INSTANCE_MAX: usize = 64;
/// How long a refused call's body is waited for: it comes with its headers, or the caller is not in a hurry.
pub const PASS_OVER_WITHIN: Duration = Duration::from_millis(250);
/// A trust bundle: a few roots and keys; what is read before it is understood costs memory.
pub const TRUST_BUNDLE_MAX: u64 = 256 * 1024;
/// Roots of one trust domain: those of its servers, each with its next.
pub const TRUST_ROOTS_MAX: usize = 64;
/// Certificates that a caller may send: a leaf and its intermediates. Building paths through more is work for nothing.
pub const CHAIN_MAX: usize = 8;
/// How long a client may take to say hello: no place for a handshake is taken before (CVE-2026-7776).
pub const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// How long the rest of a TLS handshake may take: ten round trips around the world.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// The same while others wait for its place: two round trips around the world.
pub const HANDSHAKE_PRESSED: Duration = Duration::from_secs(1);
/// How long one may wait for a place, apart from the time that the place is for: a fleet that comes back at once gets in.
pub const HANDSHAKE_QUEUE_WITHIN: Duration = Duration::from_secs(10);
/// Connections of one address (or IPv6 network) that are listened to for a hello; half of its strangers.
pub const HELLOS_OF_ONE_MAX: usize = 128;
/// TLS handshakes at once: each costs a signature and some KiB, and two cores make thousands a second.
pub const HANDSHAKES_MAX: usize = 256;
/// The same of one address (or IPv6 network), so that one that stalls leaves room for the others.
pub const HANDSHAKES_OF_ONE_MAX: usize = 64;
/// How often certificate, key and trust bundles are read again: rotation is never in a hurry, and a file is small.
pub const RELOAD_EVERY: Duration = Duration::from_secs(2);
/// How long before its certificate ends a connection is asked to leave: its owner has the next one by then.
pub const LEAVE_AHEAD: Duration = Duration::from_secs(10);
