//! What a message says: CloudEvents 1.0, with a link to where people decide and never the power to decide.

use std::time::{Duration, UNIX_EPOCH};

use protem_verify::names::unprintable;
use protem_verify::time::Time;
use serde_json::{Map, Value, json};

use crate::engine::notify::{About, GrantNews, Notice, Occasion, ScopeNews, reason};
use crate::policy::catalog::Risk;

/// The `Content-Type` of a CloudEvent as structured JSON (CloudEvents HTTP binding §3.2).
pub const CLOUDEVENTS: &str = "application/cloudevents+json; charset=utf-8";

/// A CloudEvent. `issuer`: the broker's, its source.
#[must_use]
pub fn cloudevent(notice: &Notice, issuer: &str) -> Vec<u8> {
    let subject = match &notice.about {
        About::Grant(news) => news.grant.text(),
        About::Identity(_) => notice.identity.to_string(),
    };
    let event = json!({
        "specversion": "1.0",
        "id": notice.id,
        "source": issuer,
        "type": kind(notice.occasion),
        "subject": subject,
        "time": time(notice.at),
        "datacontenttype": "application/json",
        "data": data(notice, issuer),
    });
    event.to_string().into_bytes()
}

fn kind(occasion: Occasion) -> &'static str {
    match occasion {
        Occasion::Pending => "protem.request.pending",
        Occasion::Reminder => "protem.request.reminder",
        Occasion::Emergency => "protem.grant.emergency",
        Occasion::Decided => "protem.request.decided",
        Occasion::Ended => "protem.grant.ended",
        Occasion::Quarantined => "protem.identity.quarantined",
    }
}

fn data(notice: &Notice, issuer: &str) -> Value {
    let mut data = Map::new();
    let mut say = |name: &str, value: Value| drop(data.insert(name.to_owned(), value));
    say("summary", summary(notice).into());
    say("seq", notice.seq.0.into());
    say("actor", (*notice.actor.0).into());
    say("identity", notice.identity.as_str().into());
    if let Some(owners) = &notice.owners {
        let (business, technical) = (owners.business.to_string(), owners.technical.to_string());
        say("owner", json!({ "business": business, "technical": technical }));
    }
    match &notice.about {
        About::Identity(note) => say("note", note.as_str().into()),
        About::Grant(news) => grant(news, &mut say),
    }
    say("link", link(notice, issuer).into());
    say("command", command(notice).into());
    Value::Object(data)
}

fn grant(news: &GrantNews, say: &mut dyn FnMut(&str, Value)) {
    let GrantNews { request, ruling, .. } = news;
    say("grant", news.grant.text().into());
    if news.changed {
        say("changed", true.into());
    }
    if let Some(person) = &news.behind {
        say("person", person.as_str().into());
    }
    let (id, kind, url) = (request.task.id.as_str(), request.task.kind.as_str(), &request.task.url);
    say("task", json!({ "id": id, "kind": kind, "url": url.as_str() }));
    say("resource", request.resource.as_str().into());
    let scope = |scope: &ScopeNews| {
        let risk = scope.risk.map(Risk::as_str);
        json!({ "name": scope.name.as_str(), "risk": risk, "purpose": scope.purpose })
    };
    say("scopes", news.scopes.iter().map(scope).collect());
    say("purpose", request.purpose.as_str().into());
    say("lifetime_seconds", ruling.terms.lifetime.0.as_secs().into());
    say("emergency", request.emergency.into());
    say("findings", ruling.findings.clone().into());
    say("policies", ruling.policies.iter().map(|policy| Value::from(policy.as_str())).collect());
    if let Some(rule) = &ruling.rule {
        let groups: Vec<&str> = rule.groups.iter().map(|group| group.as_str()).collect();
        let yes: Vec<&str> = news.approved_by.iter().map(|person| person.as_str()).collect();
        let mut approvals = json!({ "required": rule.required, "given_by": yes, "groups": groups });
        if let (Some(map), Some(then)) = (approvals.as_object_mut(), &rule.then) {
            map.insert("then".to_owned(), then.as_str().into());
        }
        if let (Some(map), Some(by)) = (approvals.as_object_mut(), news.decide_by) {
            map.insert("decide_by".to_owned(), time(by).into());
        }
        say("approvals", approvals);
    }
    if let Some(until) = news.until {
        say("until", time(until).into());
    }
    if let Some((why, note)) = &news.end {
        say("end", json!({ "reason": reason(*why), "note": note.as_str() }));
    }
}

/// One sentence of names alone: nothing in it is anybody's free text.
#[must_use]
pub fn summary(notice: &Notice) -> String {
    let who = &notice.identity;
    let news = match &notice.about {
        About::Identity(_) => return format!("{who} is quarantined: it gets no new grants"),
        About::Grant(news) => news,
    };
    let scopes: Vec<&str> = news.request.scopes.iter().map(|scope| scope.as_str()).collect();
    let what = format!("{} on {}", scopes.join(", "), news.request.resource);
    match (notice.occasion, &news.end) {
        (Occasion::Pending, _) if news.changed => {
            format!("{who} asks for {what} by other rules: earlier approvals no longer count")
        }
        (Occasion::Pending, _) => format!("{who} asks for {what}"),
        (Occasion::Reminder, _) => format!("{who} still waits for {what}"),
        (Occasion::Emergency, _) => format!("{who} broke the glass for {what}"),
        (Occasion::Decided, None) => format!("{who} was granted {what}"),
        (Occasion::Decided, Some(_)) => format!("{who} was denied {what}"),
        (Occasion::Ended | Occasion::Quarantined, end) => {
            let why = end.as_ref().map_or("ended", |(why, _)| reason(*why));
            format!("access of {who} to {what} is over: {why}")
        }
    }
}

/// Where people look and decide, once they have signed in.
#[must_use]
pub fn link(notice: &Notice, issuer: &str) -> String {
    let under = issuer.trim_end_matches('/');
    match &notice.about {
        About::Grant(news) => format!("{under}/ui/requests/{}", news.grant),
        About::Identity(_) => format!("{under}/ui/"),
    }
}

/// The same at the command line.
#[must_use]
pub fn command(notice: &Notice) -> String {
    let grant = match &notice.about {
        About::Identity(_) => return format!("protem grants --identity {}", notice.identity),
        About::Grant(news) => news.grant,
    };
    match notice.occasion {
        Occasion::Pending | Occasion::Reminder => format!("protem approve {grant}"),
        Occasion::Emergency => format!("protem review {grant}"),
        Occasion::Decided | Occasion::Ended | Occasion::Quarantined => {
            format!("protem grant {grant}")
        }
    }
}

/// RFC 3339, UTC.
#[must_use]
pub fn time(at: Time) -> String {
    let moment = UNIX_EPOCH.checked_add(Duration::from_millis(at.as_millis()));
    let moment = moment.filter(|_| at.as_secs() <= YEAR_9999);
    moment.map_or_else(String::new, |at| humantime::format_rfc3339_millis(at).to_string())
}

/// The end of the year 9999: later moments have no RFC 3339 text.
const YEAR_9999: u64 = 253_402_300_799;

/// What somebody wrote, as text that no chat takes for anything else: no markup, no mention, no link. Nothing hidden stays,
/// and at most `max` characters of it.
#[must_use]
pub fn quiet(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    for letter in letters.by_ref().take(max) {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // No chat takes the full-width forms for markup, and people read them all the same.
            '*' => out.push('＊'),
            '_' => out.push('＿'),
            '~' => out.push('～'),
            '`' => out.push('｀'),
            // An invisible space behind it, so that nothing reads it as a mention, or as part of a link.
            '|' | '[' | ']' | '(' | ')' | '@' | '#' | ':' | '.' | '/' | '!' | '\\' => {
                out.push(letter);
                out.push(APART);
            }
            hidden if unprintable(hidden) => out.push('\u{fffd}'),
            plain => out.push(plain),
        }
    }
    if letters.next().is_some() {
        out.push('…');
    }
    out
}

/// A space without width.
const APART: char = '\u{200b}';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attack_what_requesters_write_is_never_markup() {
        for (text, expect) in [
            ("INC-42, as agreed", "INC-42, as agreed"),
            ("<!channel> & co", "&lt;!\u{200b}channel&gt; &amp; co"),
            (
                "<https://evil|Approve>",
                "&lt;https:\u{200b}/\u{200b}/\u{200b}evil|\u{200b}Approve&gt;",
            ),
            ("*bold* _x_ @here", "＊bold＊ ＿x＿ @\u{200b}here"),
            ("evil.example", "evil.\u{200b}example"),
            ("`x` ~y~", "｀x｀ ～y～"),
            ("a\u{202e}b\nc", "a\u{fffd}b\u{fffd}c"),
        ] {
            assert_eq!(quiet(text, 100), expect);
        }
        assert_eq!(quiet("abcdef", 3), "abc…");
        assert_eq!(quiet("abc", 3), "abc");
    }

    #[test]
    fn moments_are_rfc_3339() {
        assert_eq!(time(Time::from_millis(1_800_000_000_123)), "2027-01-15T08:00:00.123Z");
        assert_eq!(time(Time::MAX), "");
    }
}
