//! Walking the queue at a terminal: one request on one screen, one key for each decision.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_verify::codes::law;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use crate::cli::approve::{Wish, decide, exit, outcome};
use crate::cli::client::Client;
use crate::cli::dossier::dossier;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Screen, Tint};
use crate::cli::{queue, show};

/// Whether there is a person at a terminal to ask: never prompts anywhere else.
#[must_use]
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Walks through all that the caller may decide and has not approved yet, also what arrives meanwhile.
///
/// # Errors
/// When the broker refuses to show the queue.
pub async fn all(client: &Client, screen: &Screen) -> Result<Exit, Failure> {
    let mut walk = Walk::new(client, screen);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    loop {
        let queue = queue::all(client, true).await?;
        let mine = queue.iter().filter(|waiting| waiting.may_decide);
        let open: Vec<&v1::PendingGrant> = mine
            .filter(|waiting| !waiting.approved_by_me)
            .filter(|waiting| !seen.contains(queue::id(waiting)))
            .collect();
        let Some(waiting) = open.first() else { break };
        let at = seen.len().saturating_add(1);
        let of = seen.len().saturating_add(open.len());
        match walk.turn(waiting, &format!("{at} of {of}")).await {
            Turn::On(_) => {}
            Turn::Failed(failure) => screen.say(failure.to_string()),
            Turn::Again => continue,
            Turn::Quit => return Ok(Exit::Done),
        }
        seen.insert(queue::id(waiting).to_owned());
    }
    match seen.is_empty() {
        true => screen.say("nothing waits for you"),
        false => screen.say("nothing more waits for you"),
    }
    Ok(Exit::Done)
}

/// Shows one request and asks about it.
///
/// # Errors
/// When it no longer waits, or the decision was refused.
pub async fn one(client: &Client, screen: &Screen, id: String) -> Result<Exit, Failure> {
    let mut walk = Walk::new(client, screen);
    loop {
        let waiting = queue::one(client, &id).await?;
        match walk.turn(&waiting, "1 of 1").await {
            Turn::On(exit) => return Ok(exit),
            Turn::Failed(failure) => return Err(failure),
            Turn::Quit => return Ok(Exit::Done),
            Turn::Again => {}
        }
    }
}

struct Walk<'a> {
    client: &'a Client,
    screen: &'a Screen,
    keys: Lines<BufReader<Stdin>>,
}

/// What comes after one look.
enum Turn {
    /// The next request; what became of this one.
    On(Exit),
    /// The broker did not take the decision.
    Failed(Failure),
    /// The same one, as it is now.
    Again,
    /// Nothing more.
    Quit,
}

/// What an approver may press.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Approve,
    Deny,
    Next,
    Shorten,
    Quit,
}

/// What the keys do, for who types something else.
const KEYS: &str =
    "  a: yes, as asked   d: no, with a reason   s: yes, for a shorter time or fewer scopes
  n: leave it, and show the next one   q: stop";

impl Key {
    /// The key that a line begins with; the whole word does, too. A letter of something else counts for nothing.
    fn of(line: &str) -> Option<Self> {
        match line.trim().to_lowercase().as_str() {
            "a" | "approve" => Some(Self::Approve),
            "d" | "deny" => Some(Self::Deny),
            "n" | "next" => Some(Self::Next),
            "s" | "shorten" => Some(Self::Shorten),
            "q" | "quit" => Some(Self::Quit),
            _ => None,
        }
    }
}

impl<'a> Walk<'a> {
    fn new(client: &'a Client, screen: &'a Screen) -> Self {
        let keys = BufReader::new(tokio::io::stdin()).lines();
        Self { client, screen, keys }
    }

    /// A line that a person types; none when there is nobody any more.
    async fn ask(&mut self, question: &str) -> Option<String> {
        let _ = write!(std::io::stderr(), "{question}");
        let _ = std::io::stderr().flush();
        self.keys.next_line().await.ok().flatten().map(|line| line.trim().to_owned())
    }

    /// Shows one request and does what the approver presses.
    async fn turn(&mut self, waiting: &v1::PendingGrant, place: &str) -> Turn {
        let head = format!("\n{place}  {}", queue::id(waiting));
        self.screen.say(self.screen.tint(Tint::Dim, &head));
        self.screen.say(dossier(self.screen, waiting, SystemClock.unix()));
        // A letter and Enter: no key that was pressed too early decides anything.
        let question = match waiting.may_decide {
            true => "\n[a]pprove  [d]eny  [s]horten  [n]ext  [q]uit, then Enter: ",
            false => "\n[n]ext  [q]uit, then Enter: ",
        };
        let key = loop {
            let Some(line) = self.ask(question).await else { return Turn::Quit };
            match Key::of(&line) {
                Some(key @ (Key::Next | Key::Quit)) => break key,
                Some(key) if waiting.may_decide => break key,
                Some(_) | None if line.is_empty() => {}
                Some(_) | None => self.screen.say(KEYS),
            }
        };
        let wish = match key {
            Key::Next => return Turn::On(Exit::Done),
            Key::Quit => return Turn::Quit,
            Key::Approve => self.approval(None, Vec::new()).await,
            Key::Shorten => self.narrowed(waiting).await,
            Key::Deny => self.denial().await,
        };
        let Some(wish) = wish else { return Turn::Again };
        match decide(self.client, waiting, wish.clone()).await {
            Ok(grant) => {
                self.screen.say(format!("  {}", outcome(&wish, &grant)));
                Turn::On(exit(&wish, &grant))
            }
            // What changed is shown again; what was decided by others in between is gone from the queue.
            Err(failure) if AGAIN.contains(&failure.code.as_str()) => {
                self.screen.say(failure.to_string());
                Turn::Again
            }
            Err(failure) => Turn::Failed(failure),
        }
    }

    async fn approval(&mut self, lifetime: Option<Duration>, scopes: Vec<String>) -> Option<Wish> {
        let note = self.ask("a note, or just Enter: ").await?;
        Some(Wish::Approve { note, lifetime, scopes })
    }

    async fn denial(&mut self) -> Option<Wish> {
        let reason = self.ask("why (just Enter goes back): ").await?;
        (!reason.is_empty()).then_some(Wish::Deny { reason })
    }

    async fn narrowed(&mut self, waiting: &v1::PendingGrant) -> Option<Wish> {
        let grant = waiting.grant.clone().unwrap_or_default();
        let asked = show::duration(grant.lifetime.as_ref());
        let line = self.ask(&format!("for how long (Enter: {}): ", show::length(asked))).await?;
        let scopes = match grant.scopes.as_slice() {
            [] | [_] => String::new(),
            all => self.ask(&format!("which scopes (Enter: {}): ", all.join(" "))).await?,
        };
        match narrow(&grant, &line, &scopes) {
            Ok((lifetime, scopes)) => self.approval(lifetime, scopes).await,
            Err(why) => {
                self.screen.say(format!("  {why}"));
                None
            }
        }
    }
}

/// Refusals after which the same request is shown again.
const AGAIN: [&str; 3] = [law::DIGEST_CHANGED.id, law::NOT_NARROWER.id, law::NARROWER_REFUSED.id];

/// What an approver typed to make a request smaller; what stays as it was asked is left out.
fn narrow(
    grant: &v1::Grant,
    lifetime: &str,
    scopes: &str,
) -> Result<(Option<Duration>, Vec<String>), String> {
    let asked = show::duration(grant.lifetime.as_ref());
    let lifetime = match lifetime {
        "" => None,
        text => Some(humantime::parse_duration(text).map_err(|why| format!("`{text}`: {why}"))?),
    };
    if lifetime.is_some_and(|lifetime| lifetime > asked) {
        return Err(format!("it may only be shortened: {} was asked for", show::length(asked)));
    }
    let scopes: Vec<String> =
        scopes.split([' ', ',']).filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    if let Some(other) = scopes.iter().find(|scope| !grant.scopes.contains(scope)) {
        return Err(format!("`{other}` was not asked for, and cannot be added"));
    }
    if lifetime.is_none_or(|lifetime| lifetime == asked)
        && (scopes.is_empty() || scopes.len() == grant.scopes.len())
    {
        return Err("that is all of it; press a to approve it as it is".to_owned());
    }
    Ok((lifetime, scopes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_letter_or_its_word_is_a_key() {
        for (line, key) in [
            ("a", Some(Key::Approve)),
            (" A\r", Some(Key::Approve)),
            ("deny", Some(Key::Deny)),
            ("n", Some(Key::Next)),
            ("s", Some(Key::Shorten)),
            ("q", Some(Key::Quit)),
            ("", None),
            ("aa", None),
            ("yes", None),
        ] {
            assert_eq!(Key::of(line), key, "{line:?}");
        }
    }

    #[track_caller]
    fn check(lifetime: &str, scopes: &str, expect: Option<(Option<u64>, &[&str])>) {
        let grant = v1::Grant {
            lifetime: Some(show::to_wire(Duration::from_secs(900))),
            scopes: vec!["orders:read".into(), "orders:refund".into()],
            ..v1::Grant::default()
        };
        let found = narrow(&grant, lifetime, scopes).ok();
        let expect = expect.map(|(seconds, scopes)| {
            let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            (seconds.map(Duration::from_secs), scopes)
        });
        assert_eq!(found, expect, "{lifetime:?} {scopes:?}");
    }

    #[test]
    fn a_request_is_only_made_smaller() {
        check("5m", "", Some((Some(300), &[])));
        check("", "orders:read", Some((None, &["orders:read"])));
        check(
            "5m",
            "orders:read, orders:refund",
            Some((Some(300), &["orders:read", "orders:refund"])),
        );
        check("20m", "", None);
        check("soon", "", None);
        check("", "orders:write", None);
        check("", "", None);
        check("15m", "", None);
    }
}
