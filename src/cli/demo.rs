//! `protem demo`: the whole story with real processes, in under a minute.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_verify::codes::tool;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout};
use zeroize::Zeroizing;

use crate::cli::child::{Signals, of_signal};
use crate::cli::demo_job::{self, ALLOWED, OUTSIDE, Told, now_us};
use crate::cli::exit::{Exit, Failure};
use crate::cli::http;
use crate::cli::output::{Screen, Tint};
use crate::cli::scene::{Ran, Scene, Stage};
use crate::cli::show::length;

/// Who asks in the demo; of the built-in bundle.
const IDENTITY: &str = "payments/agent";
/// Who stops things in the demo.
const OPERATOR: &str = "olga:operators,auditors";
/// The lease of the job that is killed: the shortest that a hiccup survives.
const LEASE: &str = "2s";
/// What refuses later than this is not as told.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);

/// Tells the story.
///
/// # Errors
/// When a step did not go as told.
pub async fn demo(screen: &Screen) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let scene = Scene::new()?;
    // Whatever ends the story drops its processes, which ends them, before the folder goes.
    let told = tokio::select! {
        told = Story::tell(screen, &scene) => told.map(|()| Exit::Done),
        signal = signals.next() => Ok(Exit::Command(of_signal(signal))),
    };
    scene.clean()?;
    let exit = told?;
    if exit == Exit::Done {
        screen.say("");
        screen.say("Every step went as told; the processes have ended and their folder is gone.");
        screen.say("Go on: `protem dev` gives you a broker to try things on.");
    }
    Ok(exit)
}

struct Story<'a> {
    screen: &'a Screen,
    scene: &'a Scene,
    began: Duration,
    stage: Stage,
    orders: SocketAddr,
}

/// A job that runs under `protem run`.
struct Job {
    run: Child,
    told: Lines<BufReader<ChildStdout>>,
    said: Lines<BufReader<ChildStderr>>,
    token: Zeroizing<String>,
    folder: PathBuf,
    grant: String,
}

fn not_so(what: impl Into<String>) -> Failure {
    Failure::of(Exit::Failed, tool::STEP, what)
}

/// Goes on only if it is as told.
fn must(holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(not_so(what())) }
}

impl<'a> Story<'a> {
    async fn tell(screen: &'a Screen, scene: &'a Scene) -> Result<(), Failure> {
        screen
            .say("protem: access that dies with its task. Real processes, on this machine only.\n");
        let began = SystemClock.boot();
        let stage = scene.broker(&[]).await?;
        let orders = stage.ready.orders.clone();
        let orders = orders.ok_or_else(|| not_so("the orders API did not start"))?;
        let orders = orders.trim_start_matches("http://").trim_end_matches('/').parse();
        let orders = orders.map_err(|_| not_so("the orders API has no address"))?;
        let story = Self { screen, scene, began, stage, orders };
        story
            .line("broker", &format!("listens on {}, journal in SQLite", story.stage.ready.broker));
        story.line("orders API", &format!("listens on {orders}, behind a protem gateway"));
        story.without_credential().await?;
        let grant = story.a_job_that_ends().await?;
        story.a_job_that_is_killed().await?;
        story.an_operator_revokes().await?;
        story.the_trail_verifies(&grant).await
    }

    fn line(&self, who: &str, what: &str) {
        let at = SystemClock.boot().saturating_sub(self.began).as_secs_f64();
        let at = self.screen.tint(Tint::Dim, &format!("{at:5.1} s"));
        let who = self.screen.tint(Tint::Bold, &format!("{who:<11}"));
        self.screen.say(format!("{at}  {who} {what}"));
    }

    fn good(&self, who: &str, what: &str) {
        self.line(who, &self.screen.tint(Tint::Good, what));
    }

    async fn call(&self, token: Option<&str>) -> Result<u16, Failure> {
        let reply = http::call(self.orders, ALLOWED.0, ALLOWED.1, token).await;
        reply.map(|reply| reply.status).map_err(|why| not_so(format!("the orders API: {why}")))
    }

    async fn without_credential(&self) -> Result<(), Failure> {
        let status = self.call(None).await?;
        must(status == 401, || format!("without a credential the API answered {status}"))?;
        self.line("anybody", "calls it without a credential: 401");
        Ok(())
    }

    async fn a_job_that_ends(&self) -> Result<String, Failure> {
        let mut job =
            self.start("job 1", "demo-1", &["--purpose", "nightly report"], false).await?;
        let watch = tokio::spawn(refused(self.orders, job.token.clone()));
        let ended = loop {
            let told = told(&mut job).await?;
            if told.what == "end" {
                break told.at_us;
            }
        };
        let refused_us = watched(watch).await?;
        let code = job.run.wait().await.ok().and_then(|status| status.code());
        must(code == Some(0), || format!("`protem run` ended with {code:?}"))?;
        self.line("job 1", "is done, and its access with it");
        let after = Duration::from_micros(refused_us.saturating_sub(ended));
        self.good(
            "a thief",
            &format!("tries its token: 401, {} after the job ended", length(after)),
        );
        while let Ok(Some(line)) = job.said.next_line().await {
            if line.contains("access revoked") {
                self.line("broker", &format!("has the receipt: {}", clause(&line)));
            }
        }
        Ok(job.grant)
    }

    async fn a_job_that_is_killed(&self) -> Result<(), Failure> {
        let more = ["--purpose", "a job that dies", "--lease", LEASE];
        let mut job = self.start("job 2", "demo-2", &more, true).await?;
        job.run.start_kill().map_err(|why| not_so(why.to_string()))?;
        let killed = now_us();
        let _ = job.run.wait().await;
        self.line(
            "job 2",
            &format!(
                "its `protem run` is killed (SIGKILL); nobody completes the task, lease {LEASE}"
            ),
        );
        let status = self.call(Some(&job.token)).await?;
        must(status == 200, || format!("just after the kill the API answered {status}"))?;
        let watch = tokio::spawn(refused(self.orders, job.token.clone()));
        let refused_us = watched(watch).await?;
        let after = Duration::from_micros(refused_us.saturating_sub(killed));
        self.good("a thief", &format!("tries its token: 401, {} after the kill", length(after)));
        // What SIGKILL left behind: the job itself, which ends when it is refused, and its folder.
        while told(&mut job).await.is_ok_and(|told| told.what != "end") {}
        let _ = std::fs::remove_dir_all(&job.folder);
        Ok(())
    }

    async fn an_operator_revokes(&self) -> Result<(), Failure> {
        let mut job =
            self.start("job 3", "demo-3", &["--purpose", "a job gone wrong"], true).await?;
        let broker = self.stage.ready.broker.as_str();
        let args =
            ["revoke", "--identity", IDENTITY, "--note", "demo: gone wrong", "--as", OPERATOR];
        let args: Vec<&str> = args.into_iter().chain(["--broker", broker]).collect();
        let revoked = self.scene.run(&args).await?;
        let at = now_us();
        must(revoked.code == 0, || said("protem revoke", &revoked))?;
        self.line("operator", &format!("protem revoke --identity {IDENTITY}"));
        for line in revoked.stdout.lines() {
            self.line("", line);
        }
        must(revoked.stdout.contains("refuses it after"), || said("protem revoke", &revoked))?;
        let status = self.call(Some(&job.token)).await?;
        must(status == 401, || format!("after the revocation the API answered {status}"))?;
        let took = Duration::from_micros(now_us().saturating_sub(at));
        self.good(
            "job 3",
            &format!("tries again: 401, {} after the operator had the answer", length(took)),
        );
        let ended = tokio::time::timeout(REFUSED_WITHIN, job.run.wait()).await;
        let code = ended.ok().and_then(Result::ok).and_then(|status| status.code());
        must(code == Some(124), || format!("`protem run` ended with {code:?} instead of 124"))?;
        while job.told.next_line().await.is_ok_and(|line| line.is_some()) {}
        self.line("job 3", "is stopped by its `protem run` (exit code 124: access ended early)");
        Ok(())
    }

    async fn the_trail_verifies(self, grant: &str) -> Result<(), Failure> {
        let broker = self.stage.ready.broker.clone();
        let args = ["audit", "export", grant, "--to", "grant.json", "--as", OPERATOR];
        let args: Vec<&str> = args.into_iter().chain(["--broker", &broker]).collect();
        let exported = self.scene.run(&args).await?;
        must(exported.code == 0, || said("protem audit export", &exported))?;
        let Self { screen, scene, began, stage, .. } = self;
        stage.stop().await;
        let at = || {
            screen.tint(
                Tint::Dim,
                &format!("{:5.1} s", SystemClock.boot().saturating_sub(began).as_secs_f64()),
            )
        };
        let who = |who: &str| screen.tint(Tint::Bold, &format!("{who:<11}"));
        screen.say(format!("{}  {} is stopped; what follows needs no broker", at(), who("broker")));
        for (file, what) in [("grant.json", "job 1's export"), ("data/journal.db", "the journal")] {
            let verified = scene.run(&["audit", "verify", file]).await?;
            must(verified.code == 0, || said("protem audit verify", &verified))?;
            let first = verified.stdout.lines().next().unwrap_or_default().to_owned();
            let line = screen.tint(Tint::Good, &first);
            screen.say(format!("{}  {} {what}: {line}", at(), who("auditor")));
        }
        Ok(())
    }

    /// Starts a job and follows it until it has its answers.
    async fn start(
        &self,
        who: &str,
        task: &str,
        more: &[&str],
        linger: bool,
    ) -> Result<Job, Failure> {
        let broker = self.stage.ready.broker.as_str();
        let orders = format!("http://{}", self.orders);
        let program = std::env::current_exe().map_err(|why| not_so(why.to_string()))?;
        let program = program.to_string_lossy().into_owned();
        let folder = self.scene.path().join(task);
        std::fs::create_dir(&folder).map_err(|why| Failure::file(&folder, &why))?;
        let mut args = vec!["run", "--broker", broker, "--as", IDENTITY, "--task", task];
        args.extend(["--kind", "agent", "--on", "orders-api", "--scope", "orders:read"]);
        args.extend(more);
        args.extend(["--", &program, "demo-job", &orders]);
        if linger {
            args.push("--linger");
        }
        let mut command = self.scene.command(&args);
        command.env("TMPDIR", &folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut run = command.spawn().map_err(|why| not_so(why.to_string()))?;
        let (Some(stdout), Some(stderr)) = (run.stdout.take(), run.stderr.take()) else {
            return Err(not_so("the job has no pipes"));
        };
        let told_lines = BufReader::new(stdout).lines();
        let said = BufReader::new(stderr).lines();
        let (token, grant) = (Zeroizing::new(String::new()), String::new());
        let mut job = Job { run, told: told_lines, said, token, folder, grant };
        self.line(
            who,
            &format!("protem run --on orders-api --scope orders:read -- …  (as {IDENTITY})"),
        );
        let granted = job.said.next_line().await.ok().flatten().unwrap_or_default();
        must(granted.contains("gr_"), || format!("access was not granted: {granted}"))?;
        let id = granted.split(['(', ')', ' ']).find(|word| word.starts_with("gr_"));
        job.grant = id.unwrap_or_default().to_owned();
        job.token = stolen(&job.folder).await?;
        let first = told(&mut job).await?;
        must(first.status == 200, || format!("{} answered {}", first.what, first.status))?;
        self.line(who, &format!("granted; {} {}: 200", ALLOWED.0, ALLOWED.1));
        let outside = told(&mut job).await?;
        must(outside.status == 403, || format!("{} answered {}", outside.what, outside.status))?;
        self.line(who, &format!("outside its scope, {} {}: 403", OUTSIDE.0, OUTSIDE.1));
        Ok(job)
    }
}

fn said(what: &str, ran: &Ran) -> String {
    let Ran { code, stdout, stderr } = ran;
    format!("`{what}` ended with {code}: {} {}", stdout.trim(), stderr.trim())
}

/// What follows the comma of `protem run`'s last line.
fn clause(line: &str) -> &str {
    line.split_once("revoked, ").map_or(line, |(_, clause)| clause).trim()
}

async fn told(job: &mut Job) -> Result<Told, Failure> {
    let line = tokio::time::timeout(REFUSED_WITHIN, job.told.next_line()).await;
    let line = line.ok().and_then(Result::ok).flatten();
    let told = line.as_deref().and_then(|line| serde_json::from_str(line).ok());
    if let Some(told) = told {
        return Ok(told);
    }
    let mut said = Vec::new();
    while let Ok(Ok(Some(line))) =
        tokio::time::timeout(Duration::from_millis(200), job.said.next_line()).await
    {
        said.push(line);
    }
    Err(not_so("the job told nothing more").because(said.join(" ")))
}

/// A copy of the job's credential, taken from its file as a thief with the same user's rights would.
async fn stolen(folder: &std::path::Path) -> Result<Zeroizing<String>, Failure> {
    for _ in 0..200 {
        let inner = std::fs::read_dir(folder).ok().and_then(|mut inner| inner.next());
        if let Some(Ok(inner)) = inner
            && let Ok(token) = demo_job::read(&inner.path().join("credential"))
        {
            return Ok(token);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Err(not_so("the job has no credential file"))
}

/// Calls with a token again and again, and says when it was refused first.
async fn refused(orders: SocketAddr, token: Zeroizing<String>) -> Result<u64, String> {
    let began = SystemClock.boot();
    while SystemClock.boot().saturating_sub(began) < REFUSED_WITHIN {
        match http::call(orders, ALLOWED.0, ALLOWED.1, Some(&token)).await {
            Ok(reply) if reply.status == 401 => return Ok(now_us()),
            Ok(reply) if reply.status == 200 => {}
            Ok(reply) => return Err(format!("the API answered {} {}", reply.status, reply.body)),
            Err(why) => return Err(format!("the API: {why}")),
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    Err(format!("the token still counted after {}", length(REFUSED_WITHIN)))
}

async fn watched(watch: tokio::task::JoinHandle<Result<u64, String>>) -> Result<u64, Failure> {
    watch.await.map_err(|why| not_so(why.to_string()))?.map_err(not_so)
}
