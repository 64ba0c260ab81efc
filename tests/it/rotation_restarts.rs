//! Keys of a real process: killed in the middle of a rotation, at rest on its disk, and under a job that goes on.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::SigningKey;
use protem_clock::random;
use protem_verify::verifier::Reason;
use serde_json::Value;

use crate::bundle::{FILES, RESOURCE, WORKERS};
use crate::cli::{AGENT, OPERATOR, READ, line};
use crate::edge::Edge;
use crate::process::{Broker, Kept, PATIENCE, call, files_under, mode, until};

/// Kills in the middle of rotations, and how many at most until enough keys have signed.
const KILLS: u32 = 6;
const KILLS_MAX: u32 = 30;

fn keys(broker: &Broker) -> Vec<Value> {
    let listed = broker.run(OPERATOR, &["keys", "list", "-o", "json"]).expect(0).json();
    listed["keys"].as_array().expect("keys").clone()
}

fn signing(broker: &Broker, purpose: &str) -> String {
    let keys = keys(broker);
    let signs: Vec<&Value> =
        keys.iter().filter(|key| key["signs"] == true && key["purpose"] == purpose).collect();
    assert_eq!(signs.len(), 1, "{keys:?}");
    signs[0]["keyId"].as_str().unwrap().to_owned()
}

/// The private halves in the key folder: id and seed, as they lie there.
fn seeds(broker: &Broker) -> Vec<(String, String)> {
    let files = files_under(&broker.data().join("keys"));
    let key = |path: &Path| path.extension().is_some_and(|end| end == "key" || end == "new");
    let read = |path: &std::path::PathBuf| {
        // It may go between the listing and the reading.
        let text = std::fs::read_to_string(path).ok()?;
        let seed = text.split_whitespace().nth(2)?.to_owned();
        Some((path.file_stem().unwrap().to_str().unwrap().to_owned(), seed))
    };
    files.iter().filter(|path| key(path)).filter_map(read).collect()
}

/// A credential, and where its grant is in the journal.
fn token(broker: &Broker, who: &str, task: &str) -> (String, u64) {
    let ask = ["request", "--task", task, "--kind", "load", "--on", RESOURCE, "--scope"];
    let ask = line(&ask, &["orders:read", "--for", "10m", "-o", "json"]);
    let granted = broker.run(who, &ask).expect(0).json();
    let token = granted["credential"]["token"].as_str().expect("a credential").to_owned();
    (token, granted["grant"]["seq"].as_str().unwrap().parse().unwrap())
}

/// Fails unless a gateway that has seen the journal up to `seq`, and is not stale, lets a token through.
async fn counts(edge: &Edge, seq: u64, token: &str, round: u32) {
    let end = Instant::now() + PATIENCE;
    loop {
        edge.reach(seq).await;
        match edge.check(token, "orders:read") {
            Ok(()) => return,
            // It grew stale between the two: a loaded machine's proofs are slow, and the shortest staleness is short.
            Err(Reason::Stale) if Instant::now() < end => {}
            Err(reason) => panic!("round {round}: {reason:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// F15, F1: wherever it is killed, between a publication and the first signature too, it goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_goes_on_where_kill_9_left_it() {
    // A broker that was just started cannot know which gateways its predecessor gave proofs to, until they must be stale:
    // the shortest staleness there is, so that keys come and go between two kills.
    let brief: Vec<(&str, String)> = FILES
        .iter()
        .map(|(name, text)| (*name, text.replace("\"10s\"", "\"2s\"").replace("\"5s\"", "\"2s\"")))
        .collect();
    let files: Vec<(&str, &str)> = brief.iter().map(|(name, text)| (*name, &**text)).collect();
    let mut broker = tokio::task::block_in_place(|| Broker::rotating(&files, false, "400ms"));
    let edge = Edge::start(&broker).await;
    let mut tokens = Vec::new();
    let mut signed = BTreeSet::new();
    for round in 0..KILLS_MAX {
        // A machine that is slow to start a broker is slow to rotate its keys: it gets more rounds.
        if round >= KILLS && signed.len() > 2 {
            break;
        }
        let [dice] = random::bytes::<1>();
        tokio::time::sleep(Duration::from_millis(2_100 + u64::from(dice) * 6)).await;
        let seq = tokio::task::block_in_place(|| {
            broker.kill();
            broker.start();
            let (fresh, seq) = token(&broker, WORKERS[0], &format!("t{round}"));
            signed.insert(signing(&broker, "credential"));
            tokens.push(fresh);
            seq
        });
        let head = keys(&broker).len();
        assert!(head < 64, "keys pile up: {head}");
        for token in &tokens {
            counts(&edge, seq, token, round).await;
        }
    }
    assert!(signed.len() > 2, "nothing rotated: {signed:?}");
    tokio::task::block_in_place(|| {
        // What is on disk is what the journal knows and may still be asked of, and nothing else.
        until("the key folder holds what is needed", || {
            let known = keys(&broker);
            let here: BTreeSet<String> = seeds(&broker).into_iter().map(|(id, _)| id).collect();
            let is = |key: &Value| key["state"] != "retired" || key["purpose"] == "credential";
            let needed: BTreeSet<String> = known
                .iter()
                .filter(|key| is(key))
                .map(|key| key["keyId"].as_str().unwrap().to_owned())
                .collect();
            needed == here
        });
        assert!(broker.log().lines().all(|line| !line.contains("ERROR")), "{}", broker.log());
    });
}

/// Row 66: after a rotation nothing of the private half is left, and what is kept only its own user may read.
#[test]
fn attack_at_rest_after_rotation_and_modes() {
    let broker = Broker::rotating(&[], true, "24h");
    let old = signing(&broker, "credential");
    let checkpoint = signing(&broker, "checkpoint");
    let before = seeds(&broker);
    assert!(before.len() >= 4, "two of each purpose: {}", before.len());
    for purpose in ["credential", "checkpoint"] {
        let rotate = ["keys", "rotate", "--compromised", "--purpose", purpose, "--note", "leak"];
        let said = broker.run(OPERATOR, &rotate).expect(0).out;
        assert!(said.contains("void") && said.contains("signs"), "{said}");
    }
    let gone = [old, checkpoint];
    until("private halves are removed", || seeds(&broker).iter().all(|(id, _)| !gone.contains(id)));
    let files = files_under(&broker.data());
    assert!(files.len() > 4, "{files:?}");
    for file in &files {
        assert_eq!(mode(file) & 0o077 & !0o044, 0, "others may change {}", file.display());
        let bytes = std::fs::read(file).unwrap_or_default();
        for (id, seed) in before.iter().filter(|(id, _)| gone.contains(id)) {
            let raw = BASE64URL_NOPAD.decode(seed.as_bytes()).unwrap();
            let key = SigningKey::from_bytes(&raw.clone().try_into().unwrap());
            for secret in [seed.as_bytes(), &raw, &key.to_keypair_bytes()] {
                let found = bytes.windows(secret.len()).any(|window| window == secret);
                assert!(!found, "{id} is in {}", file.display());
            }
        }
    }
    let folder = broker.data().join("keys");
    assert_eq!((mode(&folder), mode(&broker.data())), (0o700, 0o700));
    for file in files_under(&folder) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!(mode(&broker.journal()) & 0o077, 0, "the journal is nobody else's to read");
    for (_, seed) in before.iter().chain(&seeds(&broker)) {
        assert!(!broker.log().contains(seed.as_str()), "a private half was printed");
    }
}

/// Row 52: a key that others may read, or that is no key, is a clear no at the start, and nothing is served.
#[test]
fn attack_start_with_unreadable_key() {
    use std::os::unix::fs::PermissionsExt;
    let mut broker = Broker::example();
    broker.kill();
    let folder = broker.data().join("keys");
    let file = files_under(&folder).into_iter().find(|file| file.extension().unwrap() == "key");
    let file = file.unwrap();
    let set = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let start = || {
        let mut command = broker.cli();
        command.args(["dev", "--no-orders", "--listen", &broker.address()]);
        command.arg("--data").arg(broker.data());
        crate::process::ran(command.output().unwrap())
    };
    set(&file, 0o644);
    let said = start().expect(1).err;
    assert!(said.contains("PT-0512") && said.contains("0600"), "{said}");
    set(&file, 0o600);
    set(&folder, 0o755);
    let said = start().expect(1).err;
    assert!(said.contains("PT-0512") && said.contains("0700"), "{said}");
    set(&folder, 0o700);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "nonsense").unwrap();
    let said = start().expect(1).err;
    assert!(said.contains("PT-0512") && !said.contains("nonsense"), "{said}");
    std::fs::write(&file, text).unwrap();
    broker.start();
}

/// The private half of the key that signs is lost: the next one that gateways know signs instead, by itself.
#[test]
fn a_lost_key_is_replaced_by_the_next() {
    let mut broker = Broker::example();
    let old = signing(&broker, "credential");
    broker.kill();
    std::fs::remove_file(broker.data().join("keys").join(format!("{old}.key"))).unwrap();
    broker.start();
    until("the next key signs", || {
        let keys = keys(&broker);
        keys.iter().any(|key| {
            key["signs"] == true && key["purpose"] == "credential" && key["keyId"] != old.as_str()
        })
    });
    let ran = broker.run(AGENT, &line(&line(&["run", "--task", "t"], &READ), &["--", "true"]));
    ran.expect(0);
    assert!(keys(&broker).iter().any(|key| key["state"] == "published"), "and one is known ahead");
}

/// A job goes on over an emergency: its credential file holds a fresh one long before it would have renewed.
#[test]
fn a_running_job_renews_at_once_when_its_key_leaked() {
    let broker = Broker::example();
    let script = "echo $PROTEM_CREDENTIAL_FILE > where; exec sleep 60";
    let words = line(&line(&["run", "--task", "long"], &READ), &["--", "sh", "-c", script]);
    let mut command = broker.cli();
    command.env("PROTEM_AS", AGENT).args(words).stdout(Stdio::null()).stderr(Stdio::null());
    let mut job = Kept(command.spawn().unwrap());
    let place = broker.home().join("where");
    until("the job runs", || {
        std::fs::read_to_string(&place).is_ok_and(|text| text.ends_with('\n'))
    });
    let file = std::fs::read_to_string(&place).unwrap().trim().to_owned();
    let read = || std::fs::read_to_string(&file).unwrap();
    let mut old = read();
    for _ in 0..2 {
        assert_eq!(call(&broker, &old), 200);
        broker.run(OPERATOR, &["keys", "rotate", "--compromised", "--note", "leak"]).expect(0);
        until("the leaked key's token is refused", || call(&broker, &old) == 401);
        until("the job has a fresh one", || read() != old);
        old = read();
    }
    assert_eq!(call(&broker, &old), 200);
    job.signal(rustix::process::Signal::TERM);
    job.ended(PATIENCE);
}
