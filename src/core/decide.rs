//! Decide: the law itself. A command goes in; events, or a refusal, come out.

use protem_verify::time::Time;

use crate::command::Command;
use crate::dice::Dice;
use crate::event::Event;
use crate::refusal::Refusal;
use crate::state::State;
use crate::{access, approval, ending, rules, tick};

/// What follows from `command` on `state` at `now`. An empty list means that nothing changes: the command repeats what is.
///
/// # Errors
/// When the law says no; nothing changed.
pub fn decide(
    state: &State,
    command: Command,
    now: Time,
    dice: &mut dyn Dice,
) -> Result<Vec<Event>, Refusal> {
    match command {
        Command::OpenJournal { journal, epoch, issuer, dev } => {
            rules::open_journal(state, journal, epoch, issuer, dev)
        }
        Command::BeginEpoch { epoch, note } => rules::begin_epoch(state, epoch, note),
        Command::RequestAccess { request, verdict, behind } => {
            access::request(state, request, verdict, behind, now, dice)
        }
        Command::RenewCredential { by, grant, verdict } => {
            access::renew(state, &by, grant, verdict, now)
        }
        Command::HoldTask { by, task, hold, lease } => {
            ending::hold(state, by.identity, task, hold, lease, now)
        }
        Command::AbandonTask { identity, task, hold } => {
            Ok(ending::abandon(state, identity, task, hold, now))
        }
        Command::CompleteTask { by, task, hold, outcome } => {
            ending::complete(state, by.identity, task, hold, outcome, now)
        }
        Command::ReturnGrant { by, grant, note } => {
            ending::give_back(state, &by.identity, grant, note, now)
        }
        Command::Decide { grant, digest, choice, reason, approver, verdict, narrowed } => {
            let wish = approval::Wish { digest, choice, reason, narrowed };
            approval::decide(state, grant, wish, &approver, verdict, now)
        }
        Command::CloseReview { grant, by, bundle, note } => {
            approval::close_review(state, grant, by, bundle, note)
        }
        Command::Revoke { targets, note } => ending::revoke(state, targets, &note, now),
        Command::SetQuarantine { identity, on, note } => {
            ending::quarantine(state, identity, on, note, now)
        }
        Command::ActivateBundle { digest, files, expect } => {
            rules::activate_bundle(state, digest, files, expect)
        }
        Command::Settle { digest, grants } => rules::settle(state, digest, grants, now),
        Command::PublishKey(key) => rules::publish_key(state, key),
        Command::ReplaceKey { key, note } => rules::replace_key(state, key, note),
        Command::ForgetKey { key } => rules::forget_key(state, key, now),
        Command::ActivateKey { key } => rules::activate_key(state, key),
        Command::RetireKey { key, compromised, note } => {
            rules::retire_key(state, key, compromised, note)
        }
        Command::Tick => Ok(tick::due(state, now)),
    }
}
