//! What happens at a development broker, one line for each entry of its journal.

use std::time::Duration;

use protem_core::event::{Event, Target};
use protem_verify::ids::Seq;

use crate::cli::exit::visible;
use crate::cli::output::{Screen, Tint};
use crate::engine::broker::Broker;
use crate::journal::committed::Committed;

/// How often to look: at once for a person, and next to nothing for the machine.
const EVERY: Duration = Duration::from_millis(200);
/// Entries of one look.
const LOOK_MAX: u32 = 200;

/// Follows the journal from now on.
pub async fn follow(screen: Screen, broker: Broker) {
    let mut after = broker.head().seq;
    loop {
        tokio::time::sleep(EVERY).await;
        if broker.head().seq <= after {
            continue;
        }
        let reader = broker.reader().clone();
        let rows = tokio::task::spawn_blocking(move || reader.read(after, LOOK_MAX)).await;
        let Ok(Ok(rows)) = rows else { return };
        for row in &rows {
            after = row.seq();
            tell(&screen, row);
        }
        if after == Seq(0) {
            return;
        }
    }
}

fn tell(screen: &Screen, row: &Committed<Event>) {
    let Some(what) = words(row.what()) else { return };
    let secs = row.at().as_secs() % 86_400;
    let (hours, minutes, seconds) = (secs / 3_600, secs / 60 % 60, secs % 60);
    let clock = screen.tint(Tint::Dim, &format!("{hours:02}:{minutes:02}:{seconds:02}"));
    let actor = screen.tint(Tint::Dim, &format!("by {}", visible(&row.actor().0)));
    screen.say(format!("{clock}  {:>5}  {}  {actor}", row.seq().0, visible(&what)));
}

/// An entry in words; none for what is of no interest to who watches.
fn words(event: &Event) -> Option<String> {
    Some(match event {
        Event::GrantActivated(activated) => {
            let issued = &activated.credential;
            let scopes: Vec<&str> = issued.scopes.iter().map(|scope| scope.as_str()).collect();
            format!(
                "granted      {} on {} to {} for task {}",
                scopes.join(" "),
                issued.resource,
                issued.by.identity,
                issued.task
            )
        }
        Event::GrantRequested(asked) => {
            let request = &asked.asked.request;
            format!("waits        {} on {}", request.by.identity, request.resource)
        }
        Event::AccessRefused(asked) => {
            let request = &asked.request;
            format!(
                "refused      {} on {} ({})",
                request.by.identity, request.resource, asked.ruling.code
            )
        }
        Event::GrantEnded(ended) => {
            let reason = format!("{:?}", ended.reason).to_lowercase();
            format!(
                "ended        {} of {}, task {}: {reason}",
                ended.resource, ended.identity, ended.task
            )
        }
        Event::CredentialIssued(issued) => {
            format!(
                "renewed      {} of {}, number {}",
                issued.resource, issued.by.identity, issued.number
            )
        }
        Event::TaskEnded { identity, task, reason, .. } => {
            format!("task over    {task} of {identity}: {}", format!("{reason:?}").to_lowercase())
        }
        Event::TaskHeld { identity, task, .. } => format!("task held    {task} of {identity}"),
        Event::CutOff { target, note, .. } => format!("cut off      {}: {note}", covered(target)),
        Event::IdentityQuarantined { identity, note } => format!("quarantined  {identity}: {note}"),
        Event::QuarantineLifted { identity, note } => format!("lifted       {identity}: {note}"),
        Event::BundleActivated { digest, .. } => format!("bundle       {digest} is in force"),
        Event::EpochBegan { note, .. } => format!("epoch        began: {note}"),
        Event::ApprovalGiven { grant, by, .. } => format!("approved     {grant} by {by}"),
        Event::RequestReminded { grant, .. } => format!("reminded     {grant}"),
        Event::ApprovalTakenBack { grant, by } => format!("taken back   {grant} by {by}"),
        Event::RequestNarrowed { grant, by, .. } => format!("narrowed     {grant} by {by}"),
        Event::ReviewClosed { grant, by, .. } => format!("reviewed     {grant} by {by}"),
        Event::KeyActivated { key } => format!("key          {key} signs"),
        Event::KeyRetired { key } => format!("key          {key} is retired"),
        Event::KeyRotationAsked { key, note } => {
            format!("key          {key} is to be replaced: {note}")
        }
        Event::JournalOpened { .. }
        | Event::BundleSettled { .. }
        | Event::GrantsConfirmed { .. }
        | Event::RequestReevaluated { .. }
        | Event::RequestRepeated { .. }
        | Event::KeyPublished(_)
        | Event::KeyForgotten { .. } => return None,
    })
}

fn covered(target: &Target) -> String {
    match target {
        Target::Grant(id) => format!("grant {id}"),
        Target::Task(identity, task) => format!("task {identity}#{task}"),
        Target::Identity(name) => format!("identity {name}"),
        Target::Resource(name) => format!("resource {name}"),
        Target::Scope(resource, scope) => format!("scope {resource}#{scope}"),
        Target::Key(key) => format!("key {key}"),
        Target::Everything => "everything".to_owned(),
    }
}
