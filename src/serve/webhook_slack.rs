//! A message as Slack's incoming webhooks, and those that take the same, show it.

use std::time::Duration;

use serde_json::json;

use crate::engine::notify::{About, GrantNews, Notice, reason};
use crate::policy::catalog::Risk;
use crate::serve::webhook_body::{command, link, quiet, summary, time};

/// The body. Everything but our own link is plain text; what people wrote is [`quiet`] besides, for those who ignore `blocks`.
#[must_use]
pub fn slack(notice: &Notice, issuer: &str) -> Vec<u8> {
    let text: String = lines(notice).join("\n").chars().take(TEXT_MAX).collect();
    let link = link(notice, issuer);
    let ours = format!("<{link}|Look> or `{}`", command(notice));
    let body = json!({
        "text": format!("{text}\n{ours}"),
        "blocks": [
            { "type": "section", "text": { "type": "plain_text", "text": text, "emoji": false } },
            { "type": "section", "text": { "type": "mrkdwn", "text": ours, "verbatim": true } },
        ],
        "unfurl_links": false,
        "unfurl_media": false,
    });
    body.to_string().into_bytes()
}

fn lines(notice: &Notice) -> Vec<String> {
    // Names are the bundle's, have no markup, and stay such that they can be copied.
    let mut lines = vec![summary(notice)];
    if let Some(owners) = &notice.owners {
        lines.push(format!("Owned by: {}, {}", owners.business, owners.technical));
    }
    let mut say = |what: &str, text: &str| {
        if !text.is_empty() {
            lines.push(format!("{what}: {}", quiet(text, LINE_MAX)));
        }
    };
    match &notice.about {
        About::Identity(note) => say("Note", note.as_str()),
        About::Grant(news) => grant(news, &mut say),
    }
    say("By", &notice.actor.0);
    lines
}

fn grant(news: &GrantNews, say: &mut dyn FnMut(&str, &str)) {
    let GrantNews { request, ruling, .. } = news;
    say("Purpose, in their words", request.purpose.as_str());
    let task = &request.task;
    say("Task", &format!("{} {}", task.kind.as_str(), task.id.as_str()));
    let risks = news.scopes.iter().map(|scope| {
        let risk = scope.risk.map_or("unknown", Risk::as_str);
        format!("{} ({risk} risk) {}", scope.name, scope.purpose)
    });
    say("Scopes", &risks.collect::<Vec<_>>().join("; "));
    let seconds = Duration::from_secs(ruling.terms.lifetime.0.as_secs());
    say("For", &humantime::format_duration(seconds).to_string());
    say("Unusual", &ruling.findings.join("; "));
    if let Some(rule) = &ruling.rule {
        let groups: Vec<&str> = rule.groups.iter().map(|group| group.as_str()).collect();
        let (have, need) = (news.approved_by.len(), rule.required);
        let by = news.decide_by.map_or_else(String::new, |by| format!(", until {}", time(by)));
        say("Approvals", &format!("{have} of {need}, by {}{by}", groups.join(", ")));
    }
    if let Some(until) = news.until {
        say("Until", &time(until));
    }
    if let Some((why, note)) = &news.end {
        say("Ended", reason(*why));
        say("Note", note.as_str());
    }
}

/// Characters of what somebody wrote.
const LINE_MAX: usize = 240;
/// Characters of the whole: Slack refuses a block of more than 3,000, and no purpose shall keep a message from coming.
const TEXT_MAX: usize = 2_900;
