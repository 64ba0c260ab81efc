//! Clients whose tokens live for seconds: each comes back with a fresh one inside its lease, and no gateway grows stale.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protem::cli::dev_key;

use crate::bundle::{FILES, GATEWAY, NARROW, OPERATOR, WORKERS};
use crate::edge::Edge;
use crate::process::{Broker, Kept, PATIENCE, until};

/// How long a token lives, and how often it is replaced: as a kubelet does it, long before its end.
const LIFE: Duration = Duration::from_secs(6);
const EVERY: Duration = Duration::from_secs(1);
/// How long the broker forgives that nobody holds the job's task.
const LEASE: &str = "5s";
/// Streams that the gateway opens while the job runs, each with a token of its own: a hold that was lost with the first one would
/// be far beyond its lease by then.
const STREAMS: u64 = 4;

/// Files that hold a fresh token each, until dropped.
struct Rotating {
    folder: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Rotating {
    fn start(broker: &Broker, names: &'static [&'static str]) -> Self {
        let key = dev_key::read(&broker.home().join("state"), broker.port()).unwrap();
        let folder = broker.home().join("brief");
        std::fs::create_dir(&folder).unwrap();
        let (stop, path) = (Arc::new(AtomicBool::new(false)), folder.clone());
        let write = move || {
            for name in names {
                let file = path.join(plain(name));
                let fresh = file.with_extension("new");
                std::fs::write(&fresh, key.sign_for(name, LIFE).as_bytes()).unwrap();
                std::fs::rename(fresh, file).unwrap();
            }
        };
        write();
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(EVERY);
                write();
            }
        });
        Self { folder, stop, thread: Some(thread) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(plain(name))
    }
}

impl Drop for Rotating {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn plain(name: &str) -> String {
    name.replace(['/', ':'], "-")
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_seconds_lose_no_task_and_no_view() {
    let broker = Broker::with_bundle(FILES);
    let tokens = Rotating::start(&broker, &[WORKERS[0], GATEWAY, OPERATOR]);
    let start = |line: &[&str], who: &str, out: &str| {
        let mut command = broker.cli();
        command.args(line).env("PROTEM_TOKEN_FILE", tokens.file(who));
        let file = |name: String| std::fs::File::create(broker.home().join(name)).unwrap();
        command.stdout(file(format!("{out}.out"))).stderr(file(format!("{out}.err")));
        Kept(command.stdin(Stdio::null()).spawn().unwrap())
    };
    let said = |name: &str| std::fs::read_to_string(broker.home().join(name)).unwrap_or_default();
    let edge = Edge::with_token(&broker, tokens.file(GATEWAY)).await;
    let script = "cp $PROTEM_CREDENTIAL_FILE held; until test -e done; do sleep 0.1; done";
    let read = ["--kind", "agent", "--on", "orders-api", "--scope"];
    let run = [
        &["run", "--task", "long", "--lease", LEASE],
        &read[..],
        &["orders:read", "--", "sh", "-c", script],
    ];
    let began = Instant::now();
    let mut job = start(&run.concat(), WORKERS[0], "job");
    let ask = [&["request", "--task", "asks", "--wait", "14s"], &read[..], &["orders:refund"]];
    let mut asks = start(&ask.concat(), WORKERS[0], "asks");
    let _watches = start(&["watch"], OPERATOR, "watch");
    until("the job runs", || !said("held").is_empty());
    let held = said("held");
    while edge.tally().0 < STREAMS {
        // A view that missed its proofs for the `fresh` of the credential, 10 s, would refuse it.
        assert_eq!(edge.check(&held, "orders:read"), Ok(()), "after {:?}", began.elapsed());
        assert!(began.elapsed() < PATIENCE, "the gateway came back only {} times", edge.tally().0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(edge.tally().1, 1, "it resumes by its cursor");
    std::fs::write(broker.home().join("done"), "").unwrap();
    assert_eq!(job.ended(PATIENCE), Some(0), "{}", said("job.err"));
    assert!(!said("job.err").contains("trying again"), "{}", said("job.err"));
    // It still waits, rather than being nobody any more.
    assert_eq!(asks.ended(PATIENCE), Some(6), "{}", said("asks.err"));
    let list = broker.run(OPERATOR, &["grants", "-o", "json"]).expect(0).json();
    let long = list["grants"].as_array().unwrap().iter().find(|one| one["task"]["id"] == "long");
    assert_eq!(long.unwrap()["endReason"], "END_REASON_COMPLETED", "{list}");
    // Who watches sees what happens many tokens later.
    broker.run(OPERATOR, &["revoke", "--identity", NARROW[1], "--note", "to be seen"]).expect(0);
    until("the watcher sees it", || said("watch.out").contains(NARROW[1]));
    assert!(said("watch.err").contains("fresh one"), "{}", said("watch.err"));
}
