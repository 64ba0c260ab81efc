//! Waiting until people have decided: who may, how long it still takes, through lost connections and restarts.

use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::{EndReason, GrantState};
use protem_verify::codes::tool;
use tonic::{Code, Status, Streaming};

use crate::cli::args::Global;
use crate::cli::args_work::WaitArgs;
use crate::cli::ask::{self, Answer, RETRY_FIRST};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure, in_a_line};
use crate::cli::output::{Screen, Tint};
use crate::cli::patience::{Patience, repeat, trouble};
use crate::cli::token::base;
use crate::cli::watch::TOKEN_LATE;
use crate::cli::{find, show};

/// `protem wait GRANT`.
///
/// # Errors
/// When it was not granted.
pub async fn wait(global: &Global, args: &WaitArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let patience = args.wait.map_or_else(Patience::endless, Patience::of);
    let id = find::grant(&client, &args.grant).await?;
    let grant = v1::Grant { id, ..v1::Grant::default() };
    let answer = decided(&client, &screen, &grant, patience).await?;
    ask::finish(&client, &screen, answer)
}

/// Follows a grant until it is decided, through lost connections, and tells a person what it waits for.
///
/// # Errors
/// When it ended instead, patience ran out, or the broker no longer knows the caller.
pub async fn decided(
    client: &Client,
    screen: &Screen,
    grant: &v1::Grant,
    patience: Patience,
) -> Result<Answer, Failure> {
    let began = SystemClock.boot();
    let mut waiter = Waiter {
        client,
        screen,
        id: grant.id.clone(),
        last: None,
        began,
        plain: began.saturating_add(PLAIN_EVERY),
        patience,
        away: None,
        known: None,
    };
    if grant.state() == GrantState::Pending {
        waiter.pending(grant.clone());
    }
    let decided = waiter.follow();
    let (Some(whole), Some(left)) = (patience.whole(), patience.left()) else {
        return decided.await;
    };
    let ended = tokio::time::timeout(left, decided).await;
    screen.clear();
    ended.unwrap_or_else(|_| {
        let what = format!("`{}` still waits after {}", grant.id, show::length(whole));
        let help = format!("go on waiting with `protem wait {}{}`", grant.id, client.again());
        Err(Failure::of(Exit::Pending, tool::STILL_PENDING, what).helps(help))
    })
}

/// How often a plain line says that it still waits, where no line can be drawn anew: seldom enough for a CI log, often
/// enough that a CI system does not take the silence for a hang.
const PLAIN_EVERY: Duration = Duration::from_secs(60);
/// One request that waits.
struct Waiter<'a> {
    client: &'a Client,
    screen: &'a Screen,
    id: String,
    /// As it was last seen; none before the broker has told.
    last: Option<v1::Grant>,
    began: Duration,
    /// When the next plain line is due.
    plain: Duration,
    patience: Patience,
    /// Why the broker does not answer now, as it was last told.
    away: Option<String>,
    /// When the broker last knew us, or was away: a stream ends with its token, and a fresh one may come a little late.
    known: Option<Duration>,
}

impl Waiter<'_> {
    async fn follow(&mut self) -> Result<Answer, Failure> {
        loop {
            let asked = v1::WatchGrantRequest { grant_id: self.id.clone() };
            match self.client.access().watch_grant(asked).await {
                Ok(changes) => {
                    if let Some(answer) = self.listen(changes.into_inner()).await? {
                        return Ok(answer);
                    }
                    self.known = Some(SystemClock.boot());
                    tokio::time::sleep(RETRY_FIRST).await;
                }
                Err(status) => self.missed(&status).await?,
            }
        }
    }

    /// One stream to its end; none when it ended without a decision, as it is safe to open it again.
    async fn listen(
        &mut self,
        mut changes: Streaming<v1::WatchGrantResponse>,
    ) -> Result<Option<Answer>, Failure> {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        // The last approval and the grant it makes are two changes: the first already shows an active grant, the second brings
        // its credential. Whoever holds another subject's gets none, and does not wait for it long.
        let mut bare: Option<(v1::Grant, u32)> = None;
        loop {
            let message = tokio::select! {
                message = changes.message() => message,
                _ = second.tick() => {
                    self.tick();
                    match bare.take() {
                        Some((grant, 0)) => return Ok(Some(Answer { grant, credential: None })),
                        Some((grant, left)) => bare = Some((grant, left.saturating_sub(1))),
                        None => {}
                    }
                    continue;
                }
            };
            let Ok(Some(change)) = message else { return Ok(None) };
            if self.away.take().is_some() {
                self.say("  the broker is back");
            }
            let now = change.grant.unwrap_or_default();
            match now.state() {
                GrantState::Active if change.credential.is_none() => {
                    bare.get_or_insert((now, BARE_FOR));
                }
                GrantState::Active => {
                    self.screen.clear();
                    self.changes(&now).iter().for_each(|line| self.screen.say(line));
                    return Ok(Some(Answer { grant: now, credential: change.credential }));
                }
                GrantState::Ended => {
                    self.screen.clear();
                    return Err(not_granted(&self.client.again(), &now));
                }
                GrantState::Pending | GrantState::Unspecified => self.pending(now),
            }
        }
    }

    /// The broker did not answer, or said no.
    async fn missed(&mut self, status: &Status) -> Result<(), Failure> {
        let now = SystemClock.boot();
        let lately = self.known.is_some_and(|known| now.saturating_sub(known) < TOKEN_LATE);
        let late = status.code() == Code::Unauthenticated && lately;
        let wait = self.patience.pause(status, Duration::from_secs(1));
        let Some(wait) = wait.filter(|_| late || repeat(status)) else {
            self.screen.clear();
            return Err(self.client.failure(status));
        };
        if !late {
            // A broker that is away says nothing of our token: the time for a fresh one begins when it is back.
            self.known = self.known.map(|_| now);
            let why = trouble(status);
            if self.away.as_ref() != Some(&why) {
                self.say(&format!("  {why}; trying again"));
                self.away = Some(why);
            }
            self.tick();
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// It waits: says so at first, and then what changed.
    fn pending(&mut self, now: v1::Grant) {
        if self.last.is_none() {
            let screen = self.screen;
            screen.clear();
            screen.say(format!("  {}  {}", needs(&now), screen.tint(Tint::Dim, &rule(&now))));
            screen.say(format!("  {}", how(self.client, &now)));
        } else {
            let changes = self.changes(&now);
            changes.iter().for_each(|line| self.say(line));
        }
        self.last = Some(now);
    }

    /// What is different from the last time.
    fn changes(&self, now: &v1::Grant) -> Vec<String> {
        self.last.as_ref().map_or_else(Vec::new, |before| changes(before, now))
    }

    fn say(&self, text: &str) {
        self.screen.clear();
        self.screen.say(text);
    }

    /// The line that lives, or once in a while a plain one.
    fn tick(&mut self) {
        let now = SystemClock.boot();
        let Some(grant) = &self.last else { return };
        let line = waiting(grant, now.saturating_sub(self.began), SystemClock.unix());
        if self.screen.live {
            let away = self.away.iter().map(|why| format!(", {why}")).collect::<String>();
            self.screen.draw(&format!("  {line}{away}"));
        } else if now >= self.plain {
            self.plain = now.saturating_add(PLAIN_EVERY);
            self.screen.say(format!("  {line}"));
        }
    }
}

/// Seconds to wait for the credential of a grant that is active.
const BARE_FOR: u32 = 2;

/// `orders:refund on orders-api for up to 15m needs 1 approval`.
fn needs(grant: &v1::Grant) -> String {
    let count = grant.approvals_required;
    let word = if count == 1 { "approval" } else { "approvals" };
    let lifetime = show::length(show::duration(grant.lifetime.as_ref()));
    let scopes = in_a_line(&grant.scopes.join(" "));
    format!("{scopes} on {} for up to {lifetime} needs {count} {word}", in_a_line(&grant.resource))
}

fn rule(grant: &v1::Grant) -> String {
    let policies = grant.verdict.as_ref().map(|verdict| verdict.policies.join(", "));
    format!("(policy {})", in_a_line(&policies.unwrap_or_default()))
}

/// How an approver gets to it: the command with what is enough of the id.
fn how(client: &Client, grant: &v1::Grant) -> String {
    let (uri, short, groups) = (client.uri(), brief(&grant.id), &grant.approver_groups);
    let mut line = format!("approve: protem approve {short}");
    if client.login().is_dev() {
        // A development broker believes anybody to be anybody, so say a name that may.
        let group = groups.first().map_or("GROUP", String::as_str);
        line.push_str(&format!(" --as alice:{}", in_a_line(group)));
        if uri.port_u16() != Some(crate::config::PORT) {
            line.push_str(&format!(" --broker {}", base(uri)));
        }
        line.push_str(&format!("   or {}/ui/", base(uri)));
    } else if !groups.is_empty() {
        line.push_str(&format!("   by {}", in_a_line(&groups.join(", "))));
        line.push_str(&format!(", or at {}/ui/requests/{}", base(uri), in_a_line(&grant.id)));
    } else {
        line.push_str(&format!("   or {}/ui/requests/{}", base(uri), in_a_line(&grant.id)));
    }
    line
}

/// Enough of an id to name one of those that wait: `gr_…8kqxyz`.
#[must_use]
pub fn brief(id: &str) -> String {
    let skip = id.chars().count().saturating_sub(BRIEF);
    let end: String = id.chars().skip(skip).collect();
    if skip <= 4 { in_a_line(id) } else { format!("gr_…{}", in_a_line(&end)) }
}

/// Thirty bits of the random end of an id: two of a thousand that wait are not alike.
const BRIEF: usize = 6;

/// `waiting 0:09, until 11:32:00 UTC (29:51 left), 1 of 2 approvals`.
fn waiting(grant: &v1::Grant, waited: Duration, now: Duration) -> String {
    let mut line = format!("waiting {}", minutes(waited));
    if let Some(by) = &grant.decide_by {
        let left = Duration::from_secs(u64::try_from(by.seconds).unwrap_or(0)).saturating_sub(now);
        line.push_str(&format!(", until {} ({} left)", show::at(Some(by)), minutes(left)));
    }
    let given = grant.approvals.iter().filter(|given| given.approve).count();
    if grant.approvals_required > 1 {
        line.push_str(&format!(", {given} of {} approvals", grant.approvals_required));
    }
    line
}

/// `0:09`, `29:51`, `1:00:00`.
#[must_use]
pub fn minutes(of: Duration) -> String {
    let seconds = of.as_secs();
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        hours => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// What somebody decided between two looks, a line for each.
fn changes(before: &v1::Grant, now: &v1::Grant) -> Vec<String> {
    let mut lines = Vec::new();
    if before.scopes != now.scopes || before.lifetime != now.lifetime {
        let lifetime = show::length(show::duration(now.lifetime.as_ref()));
        let scopes = in_a_line(&now.scopes.join(" "));
        lines.push(format!("  narrowed to {scopes} for up to {lifetime}"));
    }
    // That it is active says who approved it.
    if now.state() != GrantState::Pending {
        return lines;
    }
    let needed = now.approvals_required;
    let have = now.approvals.iter().filter(|given| given.approve).count();
    let by = |grant: &v1::Grant, who: &str| {
        grant.approvals.iter().any(|given| given.approve && given.approver == who)
    };
    for given in now.approvals.iter().filter(|given| given.approve) {
        if !by(before, &given.approver) {
            lines.push(format!("  approved by {}, {have} of {needed}", words(given)));
        }
    }
    for gone in before.approvals.iter().filter(|given| given.approve) {
        if !by(now, &gone.approver) {
            let who = in_a_line(&gone.approver);
            lines.push(format!("  {who} took the approval back, {have} of {needed}"));
        }
    }
    lines
}

/// Who approved a grant, with their notes; none when policy alone did.
#[must_use]
pub fn approved_by(grant: &v1::Grant) -> Option<String> {
    let by = grant.approvals.iter().filter(|given| given.approve).map(words);
    let by: Vec<String> = by.collect();
    (!by.is_empty()).then(|| by.join(" and "))
}

/// `alice: "go ahead"`.
fn words(given: &v1::Approval) -> String {
    let who = in_a_line(&given.approver);
    if given.reason.is_empty() { who } else { format!("{who}: \"{}\"", in_a_line(&given.reason)) }
}

/// Why a grant that was waited for is none; `again`: what makes the next command the same caller's.
#[must_use]
pub fn not_granted(again: &str, grant: &v1::Grant) -> Failure {
    let by = grant.approvals.iter().find(|given| !given.approve);
    let by = by.map(|given| format!(" by {}", in_a_line(&given.approver))).unwrap_or_default();
    let note = &grant.end_note;
    let said = if note.is_empty() { String::new() } else { format!(": {}", in_a_line(note)) };
    // A request lapses and a grant expires by itself; everything else is done to it.
    let was = match grant.end_reason() {
        EndReason::Lapsed | EndReason::Expired => "",
        EndReason::Unspecified
        | EndReason::Completed
        | EndReason::Abandoned
        | EndReason::Revoked
        | EndReason::Denied
        | EndReason::Withdrawn
        | EndReason::Policy
        | EndReason::Quarantined
        | EndReason::Fenced => "was ",
    };
    let what = format!("`{}` {was}{}{by}{said}", grant.id, show::state(grant));
    Failure::of(Exit::Denied, tool::NOT_GRANTED, what)
        .helps(format!("`protem grant {}{again}` says by whom and why", grant.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(required: u32, by: &[(&str, &str)]) -> v1::Grant {
        let approval = |(who, reason): &(&str, &str)| v1::Approval {
            approver: (*who).to_owned(),
            approve: true,
            reason: (*reason).to_owned(),
            at: None,
        };
        v1::Grant {
            id: "gr_01jd8kqxyz0123456789abcdef".into(),
            resource: "orders-api".into(),
            scopes: vec!["orders:refund".into()],
            lifetime: Some(show::to_wire(Duration::from_secs(900))),
            state: GrantState::Pending.into(),
            approvals_required: required,
            approvals: by.iter().map(approval).collect(),
            decide_by: Some(prost_types::Timestamp { seconds: 1_800, nanos: 0 }),
            ..v1::Grant::default()
        }
    }

    #[test]
    fn the_line_says_what_it_waits_for_and_how_long() {
        let one = grant(1, &[]);
        assert_eq!(needs(&one), "orders:refund on orders-api for up to 15m needs 1 approval");
        let line = waiting(&one, Duration::from_secs(9), Duration::from_secs(9));
        assert_eq!(line, "waiting 0:09, until 1970-01-01 00:30:00 UTC (29:51 left)");
        let two = grant(2, &[("alice", "")]);
        let line = waiting(&two, Duration::from_secs(3_700), Duration::from_secs(3_700));
        assert!(line.starts_with("waiting 1:01:40"), "{line}");
        assert!(line.ends_with("(0:00 left), 1 of 2 approvals"), "{line}");
        assert_eq!(brief(&one.id), "gr_…abcdef");
        assert_eq!(brief("gr_1"), "gr_1");
    }

    #[track_caller]
    fn check(before: &v1::Grant, now: &v1::Grant, expect: &[&str]) {
        assert_eq!(changes(before, now), expect);
    }

    #[test]
    fn what_people_decide_is_told_as_it_comes() {
        let (none, one) = (grant(2, &[]), grant(2, &[("alice", "go ahead")]));
        check(&none, &none, &[]);
        check(&none, &one, &["  approved by alice: \"go ahead\", 1 of 2"]);
        check(&one, &none, &["  alice took the approval back, 0 of 2"]);
        let mut short = one.clone();
        short.lifetime = Some(show::to_wire(Duration::from_secs(300)));
        check(&one, &short, &["  narrowed to orders:refund for up to 5m"]);
        let mut active = grant(2, &[("alice", "go ahead"), ("bob", "")]);
        active.state = GrantState::Active.into();
        check(&one, &active, &[]);
        assert_eq!(approved_by(&active).unwrap(), "alice: \"go ahead\" and bob");
        assert_eq!(approved_by(&none), None);
    }

    #[test]
    fn attack_xss_bidi_ansi_in_reason() {
        let given = grant(2, &[("eve\u{1b}[2J", "ok\u{202e}\n  approved by bob, 2 of 2")]);
        let lines = changes(&grant(2, &[]), &given);
        let expect =
            "  approved by eve\\u{1b}[2J: \"ok\\u{202e}\\u{a}  approved by bob, 2 of 2\", 1 of 2";
        assert_eq!(lines, [expect]);
        let mut denied = grant(1, &[]);
        denied.end_note = "no\u{1b}]0;pwned\u{7}\nerror: x".into();
        let said = not_granted("", &denied).to_string();
        assert!(!said.contains(['\u{1b}', '\u{7}']) && said.lines().count() == 3, "{said}");
    }
}
