//! `protem pending`: what waits for people, as a table or as it comes.

use std::collections::BTreeMap;
use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use tonic::{Code, Status};

use crate::cli::args::Global;
use crate::cli::args_people::PendingArgs;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure, in_a_line};
use crate::cli::output::{Screen, columns, to_json};
use crate::cli::patience::{PAUSE_MAX, repeat, trouble, wait_before};
use crate::cli::wait::brief;
use crate::cli::watch::{TOKEN_LATE, put};
use crate::cli::{queue, show};

/// Shows what waits, and with `--watch` goes on.
///
/// # Errors
/// When the broker refuses to show it.
pub async fn pending(global: &Global, args: &PendingArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    if args.watch {
        return watch(&client, &screen, args.mine).await;
    }
    let pending = queue::all(&client, args.mine).await?;
    if screen.json {
        let all = v1::ListPendingResponse { pending, next_page_token: String::new() };
        screen.json("ListPendingResponse", &all, false)?;
    } else {
        list(&screen, &pending);
    }
    Ok(Exit::Done)
}

fn list(screen: &Screen, pending: &[v1::PendingGrant]) {
    if pending.is_empty() {
        return screen.say("nothing waits");
    }
    screen.print(table(pending));
    if pending.iter().any(|waiting| waiting.may_decide) {
        screen.say("  `protem approve` shows each that you may decide");
    }
}

const HEADS: [&str; 9] =
    ["GRANT", "WHO", "WANTS", "FOR", "RISK", "UNUSUAL", "APPROVALS", "DECIDE BY", "YOU"];

/// A table of what waits.
#[must_use]
pub fn table(pending: &[v1::PendingGrant]) -> String {
    let rows: Vec<Vec<String>> = pending.iter().map(row).collect();
    columns(&HEADS, &rows)
}

fn row(waiting: &v1::PendingGrant) -> Vec<String> {
    let grant = waiting.grant.clone().unwrap_or_default();
    let given = grant.approvals.iter().filter(|given| given.approve).count();
    let may = match (waiting.may_decide, waiting.why_not.as_str()) {
        (true, _) => "may decide".to_owned(),
        (false, "") => "may not decide".to_owned(),
        (false, why) => in_a_line(why),
    };
    vec![
        brief(&grant.id),
        in_a_line(&grant.identity),
        in_a_line(&format!("{} on {}", grant.scopes.join(" "), grant.resource)),
        show::length(show::duration(grant.lifetime.as_ref())),
        in_a_line(&waiting.risk),
        unusual(&waiting.findings),
        format!("{given} of {}", grant.approvals_required),
        show::at(grant.decide_by.as_ref()),
        may,
    ]
}

/// The words of what is unusual; the numbers are for who looks at the request.
fn unusual(findings: &[String]) -> String {
    if findings.is_empty() {
        return "-".to_owned();
    }
    let words = findings.iter().map(|finding| finding.split(':').next().unwrap_or_default());
    in_a_line(&words.collect::<Vec<_>>().join(", "))
}

/// What a follower of the queue knows.
#[derive(Default)]
struct Follower {
    known: BTreeMap<String, v1::PendingGrant>,
    /// What this stream has told until it caught up; it replaces what was known.
    fresh: Option<BTreeMap<String, v1::PendingGrant>>,
    /// Whether the table was shown.
    begun: bool,
}

/// Follows until the reader has enough, over lost connections.
async fn watch(client: &Client, screen: &Screen, mine_only: bool) -> Result<Exit, Failure> {
    let mut follower = Follower::default();
    let (mut seen, mut away): (Option<Duration>, bool) = (None, false);
    loop {
        let ended = once(client, screen, mine_only, &mut follower, &mut seen, &mut away).await?;
        let End::Stream(status) = ended else { return Ok(Exit::Done) };
        let now = SystemClock.boot();
        let lately = seen.is_some_and(|seen| now.saturating_sub(seen) < TOKEN_LATE);
        let late = status.as_ref().is_some_and(|s| s.code() == Code::Unauthenticated) && lately;
        let pause = Duration::from_secs(1);
        let wait = match &status {
            None => pause,
            Some(status) if late || (seen.is_some() && repeat(status)) => {
                wait_before(status, pause, PAUSE_MAX).unwrap_or(PAUSE_LONG)
            }
            Some(status) => return Err(client.failure(status)),
        };
        if let Some(status) = status.filter(|_| !late) {
            seen = seen.map(|_| now);
            if !std::mem::replace(&mut away, true) {
                screen.say(format!("  {}; trying again", trouble(&status)));
            }
        }
        tokio::time::sleep(wait).await;
    }
}

/// The pause when the broker asks for a longer one than others would wait for: who watches has time.
const PAUSE_LONG: Duration = Duration::from_secs(30);

/// How a stream ended.
enum End {
    /// The connection or the broker ended it; none when in order.
    Stream(Option<Status>),
    /// Nobody reads our stdout any more.
    Reader,
}

/// One stream to its end.
async fn once(
    client: &Client,
    screen: &Screen,
    mine_only: bool,
    follower: &mut Follower,
    seen: &mut Option<Duration>,
    away: &mut bool,
) -> Result<End, Failure> {
    let asked = v1::WatchPendingRequest { mine_only };
    let mut told = match client.approvals().watch_pending(asked).await {
        Ok(told) => told.into_inner(),
        Err(status) => return Ok(End::Stream(Some(status))),
    };
    follower.fresh = Some(BTreeMap::new());
    loop {
        let message = told.message().await;
        *seen = Some(SystemClock.boot());
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(End::Stream(None)),
            Err(status) => return Ok(End::Stream(Some(status))),
        };
        if std::mem::take(away) {
            screen.say("  the broker is back");
        }
        let lines = match screen.json {
            true => vec![to_json("WatchPendingResponse", &message)?.to_string()],
            false => follower.take(message),
        };
        if lines.iter().any(|line| put(line).is_err()) {
            return Ok(End::Reader);
        }
    }
}

impl Follower {
    /// What a message tells a person, a line for each.
    fn take(&mut self, message: v1::WatchPendingResponse) -> Vec<String> {
        let now = show::now();
        let mut lines = Vec::new();
        if let Some(waiting) = message.pending {
            let id = queue::id(&waiting).to_owned();
            match &mut self.fresh {
                Some(fresh) => drop(fresh.insert(id, waiting)),
                None => {
                    lines.extend(self.told(&now, &waiting));
                    self.known.insert(id, waiting);
                }
            }
        }
        if !message.settled.is_empty() {
            if let Some(fresh) = &mut self.fresh {
                fresh.remove(&message.settled);
            } else {
                self.known.remove(&message.settled);
                lines.push(settled(&now, &message.settled));
            }
        }
        if message.caught_up
            && let Some(fresh) = self.fresh.take()
        {
            lines.extend(self.caught_up(&now, fresh));
        }
        lines
    }

    fn caught_up(&mut self, now: &str, fresh: BTreeMap<String, v1::PendingGrant>) -> Vec<String> {
        if !std::mem::replace(&mut self.begun, true) {
            let all: Vec<v1::PendingGrant> = fresh.values().cloned().collect();
            self.known = fresh;
            return vec![if all.is_empty() { "nothing waits yet".to_owned() } else { table(&all) }];
        }
        let gone = self.known.keys().filter(|id| !fresh.contains_key(*id));
        let mut lines: Vec<String> = gone.map(|id| settled(now, id)).collect();
        lines.extend(fresh.values().flat_map(|waiting| self.told(now, waiting)));
        self.known = fresh;
        lines
    }

    /// A line for one that arrived or changed; none when it is as it was.
    fn told(&self, now: &str, waiting: &v1::PendingGrant) -> Option<String> {
        let what = match self.known.get(queue::id(waiting)) {
            Some(before) if before == waiting => return None,
            Some(_) => "changed",
            None => "arrived",
        };
        Some(format!("{now}  {what}  {}", row(waiting).join("  ")))
    }
}

fn settled(now: &str, id: &str) -> String {
    format!("{now}  settled  {}", brief(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(id: &str, required: u32) -> v1::PendingGrant {
        let grant = v1::Grant {
            id: id.to_owned(),
            identity: "payments/agent".into(),
            resource: "orders-api".into(),
            scopes: vec!["orders:refund".into()],
            approvals_required: required,
            ..v1::Grant::default()
        };
        v1::PendingGrant { grant: Some(grant), may_decide: true, ..v1::PendingGrant::default() }
    }

    fn told(waiting: v1::PendingGrant) -> v1::WatchPendingResponse {
        v1::WatchPendingResponse { pending: Some(waiting), ..Default::default() }
    }

    #[test]
    fn the_table_is_one_line_each() {
        let mut evil = waiting("gr_2", 2);
        evil.may_decide = false;
        evil.why_not = "no\u{1b}[2J\nno".into();
        evil.findings = vec!["new-scope: `a` not".into(), "dormant: \u{1b}[2J".into()];
        let text = table(&[waiting("gr_1", 1), evil]);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("0 of 1") && text.contains("may decide"), "{text}");
        assert!(text.contains("  new-scope, dormant  ") && text.contains("  -  "), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn who_follows_hears_of_each_change_once_also_over_a_lost_connection() {
        let caught_up = || v1::WatchPendingResponse { caught_up: true, ..Default::default() };
        let gone =
            |id: &str| v1::WatchPendingResponse { settled: id.to_owned(), ..Default::default() };
        let open = || Follower { fresh: Some(BTreeMap::new()), ..Follower::default() };
        let mut follower = open();
        assert!(follower.take(told(waiting("gr_1", 1))).is_empty());
        assert!(follower.take(told(waiting("gr_2", 1))).is_empty());
        assert_eq!(follower.take(caught_up()).len(), 1);
        assert!(follower.take(told(waiting("gr_3", 1)))[0].contains("arrived  gr_3"));
        assert!(follower.take(told(waiting("gr_3", 2)))[0].contains("changed  gr_3"));
        assert!(follower.take(gone("gr_1"))[0].contains("settled  gr_1"));
        // The connection is lost; gr_2 is decided and gr_4 arrives meanwhile.
        follower.fresh = Some(BTreeMap::new());
        follower.take(told(waiting("gr_3", 2)));
        follower.take(told(waiting("gr_4", 1)));
        let lines = follower.take(caught_up());
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("settled  gr_2") && lines[1].contains("arrived  gr_4"));
    }
}
