//! `protem approve` and `protem deny`: one decision, of exactly what was shown.

use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;
use protem_verify::codes::{law, tool};

use crate::cli::args::Global;
use crate::cli::args_people::{ApproveArgs, DenyArgs};
use crate::cli::client::Client;
use crate::cli::dossier::dossier;
use crate::cli::exit::{Exit, Failure, in_a_line};
use crate::cli::output::Screen;
use crate::cli::{queue, show, wait, walk};

/// What an approver wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Yes, as asked or narrower.
    Approve {
        /// A note; may be empty.
        note: String,
        /// How long only; none: as asked.
        lifetime: Option<Duration>,
        /// Which scopes only; none of them: as asked.
        scopes: Vec<String>,
    },
    /// No.
    Deny {
        /// Why.
        reason: String,
    },
    /// The own yes does not count any more.
    Undo,
}

impl Wish {
    /// What is being done, to be followed by an id.
    fn doing(&self) -> &'static str {
        match self {
            Self::Approve { lifetime: None, scopes, .. } if scopes.is_empty() => "approving",
            Self::Approve { .. } => "approving, narrower than it is shown here,",
            Self::Deny { .. } => "denying",
            Self::Undo => "taking back your approval of",
        }
    }

    /// The request that says so about what was shown.
    #[must_use]
    pub fn about(self, grant_id: String, digest: String) -> v1::DecideRequest {
        let blank = v1::DecideRequest { grant_id, digest, ..v1::DecideRequest::default() };
        match self {
            Self::Approve { note, lifetime, scopes } => v1::DecideRequest {
                approve: true,
                reason: note,
                lifetime: lifetime.map(show::to_wire),
                scopes,
                ..blank
            },
            Self::Deny { reason } => v1::DecideRequest { reason, ..blank },
            Self::Undo => v1::DecideRequest { undo: true, ..blank },
        }
    }
}

/// `protem approve`.
///
/// # Errors
/// When the broker refuses the decision, or there is no terminal to ask on.
pub async fn approve(global: &Global, args: &ApproveArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let said = args.note.is_some() || args.lifetime.is_some() || !args.scopes.is_empty();
    let settled = said || args.undo || args.digest.is_some() || screen.json;
    let Some(part) = &args.grant else {
        if !walk::can_ask() {
            let what = "nothing says which request, and there is no terminal to ask on";
            let help = "give its id; `protem pending` shows what waits";
            return Err(Failure::of(Exit::Usage, tool::USAGE, what)
                .because("a queue is walked through at a terminal alone")
                .helps(help));
        }
        return walk::all(&client, &screen).await;
    };
    let waiting = queue::one(&client, part).await?;
    // A person at a terminal who says no more than the id sees what it is about first.
    if !settled && walk::can_ask() {
        return walk::one(&client, &screen, queue::id(&waiting).to_owned()).await;
    }
    let wish = match args.undo {
        true => Wish::Undo,
        false => Wish::Approve {
            note: args.note.clone().unwrap_or_default(),
            lifetime: args.lifetime,
            scopes: args.scopes.clone(),
        },
    };
    direct(&client, &screen, &waiting, args.digest.as_deref(), wish).await
}

/// `protem deny`.
///
/// # Errors
/// When the broker refuses the decision.
pub async fn deny(global: &Global, args: &DenyArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let waiting = queue::one(&client, &args.grant).await?;
    let wish = Wish::Deny { reason: args.reason.clone() };
    direct(&client, &screen, &waiting, args.digest.as_deref(), wish).await
}

async fn direct(
    client: &Client,
    screen: &Screen,
    waiting: &v1::PendingGrant,
    digest: Option<&str>,
    wish: Wish,
) -> Result<Exit, Failure> {
    let shown = waiting.grant.clone().unwrap_or_default();
    if digest.is_some_and(|digest| digest != shown.digest) {
        let what = format!("`{}` is no longer the request with that digest", shown.id);
        return Err(Failure::of(Exit::Failed, law::DIGEST_CHANGED, what));
    }
    // Whoever decides without having been asked sees what it was that they decided, also if the answer never comes.
    let now = SystemClock.unix();
    screen.say(format!("{} {}", wish.doing(), shown.id));
    screen.say(dossier(screen, waiting, now));
    screen.say(format!("  digest    {}", in_a_line(&shown.digest)));
    let grant = decide(client, waiting, wish.clone()).await?;
    let exit = exit(&wish, &grant);
    if screen.json {
        let answer = v1::DecideResponse { grant: Some(grant) };
        screen.json("DecideResponse", &answer, false)?;
    } else {
        screen.print(outcome(&wish, &grant));
    }
    Ok(exit)
}

/// Sends a decision about exactly what `waiting` shows, and returns the grant as it is then.
///
/// # Errors
/// When it was refused: it may have changed or been decided meanwhile, or the caller may not.
pub async fn decide(
    client: &Client,
    waiting: &v1::PendingGrant,
    wish: Wish,
) -> Result<v1::Grant, Failure> {
    let shown = waiting.grant.clone().unwrap_or_default();
    let answer = client.approvals().decide(wish.about(shown.id, shown.digest)).await;
    let answer = answer.map_err(|status| client.failure(&status))?;
    Ok(answer.into_inner().grant.unwrap_or_default())
}

/// An approval that came too late: policy ended the request instead.
#[must_use]
pub fn exit(wish: &Wish, grant: &v1::Grant) -> Exit {
    let late = matches!(wish, Wish::Approve { .. }) && grant.state() == GrantState::Ended;
    if late { Exit::Denied } else { Exit::Done }
}

/// What came of a decision, in one line.
#[must_use]
pub fn outcome(wish: &Wish, grant: &v1::Grant) -> String {
    let id = wait::brief(&grant.id);
    let have = grant.approvals.iter().filter(|given| given.approve).count();
    let needed = grant.approvals_required;
    let by = show::at(grant.decide_by.as_ref());
    match (grant.state(), wish) {
        (GrantState::Active, _) => {
            let (who, resource) = (in_a_line(&grant.identity), in_a_line(&grant.resource));
            let scopes = in_a_line(&grant.scopes.join(" "));
            let until = show::at(grant.active_until.as_ref());
            format!(
                "{id} is approved: {who} has {scopes} on {resource}, at the latest until {until}"
            )
        }
        (GrantState::Ended, Wish::Deny { .. }) => format!("{id} is denied"),
        (GrantState::Ended, Wish::Approve { .. } | Wish::Undo) => {
            let note = in_a_line(&grant.end_note);
            format!("{id} is {}: {note}", show::state(grant)).trim_end_matches(": ").to_owned()
        }
        (GrantState::Pending | GrantState::Unspecified, Wish::Undo) => {
            format!("{id}: your approval is taken back; {have} of {needed}, waits until {by}")
        }
        (GrantState::Pending | GrantState::Unspecified, Wish::Approve { .. }) => {
            format!("{id}: your approval counts; {have} of {needed}, waits until {by}")
        }
        (GrantState::Pending | GrantState::Unspecified, Wish::Deny { .. }) => {
            format!("{id} still waits until {by}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_about_what_was_shown() {
        let about = |wish: Wish| wish.about("gr_1".into(), "ab".into());
        let scopes = vec!["orders:read".to_owned()];
        let narrow = Wish::Approve {
            note: "ok".into(),
            lifetime: Some(Duration::from_secs(60)),
            scopes: scopes.clone(),
        };
        let said = about(narrow);
        assert_eq!((said.grant_id.as_str(), said.digest.as_str()), ("gr_1", "ab"));
        assert!(said.approve && !said.undo && said.scopes == scopes && said.reason == "ok");
        assert_eq!(said.lifetime.unwrap().seconds, 60);
        let said = about(Wish::Deny { reason: "no".into() });
        assert!(!said.approve && !said.undo && said.reason == "no");
        let said = about(Wish::Undo);
        assert!(!said.approve && said.undo);
    }

    #[test]
    fn the_outcome_is_one_line() {
        let mut grant =
            v1::Grant { id: "gr_1".into(), approvals_required: 2, ..Default::default() };
        grant.state = GrantState::Pending.into();
        grant.approvals =
            vec![v1::Approval { approver: "alice".into(), approve: true, ..Default::default() }];
        let yes = Wish::Approve { note: String::new(), lifetime: None, scopes: Vec::new() };
        assert!(outcome(&yes, &grant).starts_with("gr_1: your approval counts; 1 of 2"));
        assert!(outcome(&Wish::Undo, &grant).contains("taken back"));
        grant.state = GrantState::Active.into();
        assert!(outcome(&yes, &grant).starts_with("gr_1 is approved: "));
        grant.state = GrantState::Ended.into();
        grant.end_reason = v1::EndReason::Denied.into();
        assert_eq!(outcome(&Wish::Deny { reason: "no".into() }, &grant), "gr_1 is denied");
    }
}
