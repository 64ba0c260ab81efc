//! `protem keys`: which keys sign, what the next ones wait for, and replacing one.

use protem_proto::wire::v1;
use protem_proto::wire::v1::enforcement::How;
use protem_verify::codes::law;

use crate::cli::args::Global;
use crate::cli::args_operate::{KeysCommand, RotateArgs};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Tint, columns};
use crate::cli::show;

/// `protem keys`.
///
/// # Errors
/// When the broker refuses.
pub async fn keys(global: &Global, command: &KeysCommand) -> Result<Exit, Failure> {
    match command {
        KeysCommand::List => list(global).await,
        KeysCommand::Rotate(args) => rotate(global, args).await,
    }
}

async fn list(global: &Global) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let answer = client.governance().list_keys(v1::ListKeysRequest {}).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("ListKeysResponse", &answer, false)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = answer.keys.iter().map(row).collect();
    let heads = ["KEY", "PURPOSE", "STATE", "CREATED", "SIGNS SINCE", "LAST EXPIRY", "WAITS FOR"];
    screen.print(columns(&heads, &rows));
    Ok(Exit::Done)
}

fn row(key: &v1::Key) -> Vec<String> {
    let missing = key.state != "compromised" && !key.private_half_here;
    let state = if missing { format!("{}, not here", key.state) } else { key.state.clone() };
    let unheard = key.known_by.iter().filter(|one| one.how() == How::Waiting);
    let unheard: Vec<&str> = unheard.map(|one| one.gateway.as_str()).collect();
    let mut waits = key.waits_for.clone();
    if !unheard.is_empty() {
        waits = format!("{waits} (silent: {})", unheard.join(", "));
    }
    vec![
        key.key_id.clone(),
        key.purpose.clone(),
        state,
        show::at(key.created.as_ref()),
        show::at(key.signs_since.as_ref()),
        show::at(key.last_token_expires.as_ref()),
        waits,
    ]
}

async fn rotate(global: &Global, args: &RotateArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let replaces = match &args.key_id {
        Some(id) => id.clone(),
        None => going(&client, args).await?,
    };
    let request = v1::RotateKeyRequest {
        compromised: args.compromised,
        note: args.note.clone(),
        purpose: args.purpose.clone(),
        replaces,
    };
    let answer = client.governance().rotate_key(request).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("RotateKeyResponse", &answer, false)?;
        return Ok(Exit::Done);
    }
    if args.compromised {
        let (old, seq) = (&answer.replaced, answer.seq);
        screen.print(format!("{old}: all that it ever signed is void, durable as entry {seq}"));
    }
    if answer.signs {
        screen.print(screen.tint(Tint::Good, &format!("{} signs now", answer.key_id)));
    } else if answer.key_id.is_empty() {
        screen.print("no other key is known yet; `protem keys list` shows when one may sign");
    } else if answer.waits_for.is_empty() {
        screen.print(format!("{} signs in a moment", answer.key_id));
    } else {
        screen.print(format!("{} signs next; it waits for {}", answer.key_id, answer.waits_for));
    }
    if args.compromised && args.purpose == "credential" {
        let then = "  no grant ended; `protem run` renews at once, others when they are refused";
        screen.say(screen.tint(Tint::Dim, then));
    }
    Ok(Exit::Done)
}

/// The key that is to go, by name: a call whose answer was lost can be repeated without replacing its successor. It is the
/// one that signs; where none does as it leaked and was cut off already, that one.
async fn going(client: &Client, args: &RotateArgs) -> Result<String, Failure> {
    let answer = client.governance().list_keys(v1::ListKeysRequest {}).await;
    let keys = answer.map_err(|status| client.failure(&status))?.into_inner().keys;
    let purpose = &args.purpose;
    named(keys, purpose, args.compromised).ok_or_else(|| {
        Failure::of(Exit::Failed, law::NO_SIGNING_KEY, format!("no {purpose} key signs now"))
            .helps("`protem keys list` shows what the next one waits for")
    })
}

fn named(keys: Vec<v1::Key>, purpose: &str, compromised: bool) -> Option<String> {
    let of_purpose = keys.into_iter().filter(|key| key.purpose == purpose);
    let (signs, others): (Vec<_>, Vec<_>) = of_purpose.partition(|key| key.signs);
    let leaked = others.into_iter().filter(|key| compromised && key.state == "compromised");
    let since = |key: &v1::Key| key.signs_since.or(key.created).map_or(0, |at| at.seconds);
    signs.into_iter().next().or_else(|| leaked.max_by_key(since)).map(|key| key.key_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keys: &[(&str, &str, i64)], compromised: bool, expect: Option<&str>) {
        let key = |(id, state, since): &(&str, &str, i64)| v1::Key {
            key_id: (*id).to_owned(),
            purpose: "credential".to_owned(),
            state: (*state).to_owned(),
            signs: *state == "signing",
            signs_since: Some(prost_types::Timestamp { seconds: *since, nanos: 0 }),
            ..v1::Key::default()
        };
        let keys = keys.iter().map(key).collect();
        assert_eq!(named(keys, "credential", compromised).as_deref(), expect);
    }

    #[test]
    fn an_emergency_is_asked_for_twice() {
        let signs = [("a", "compromised", 1), ("b", "signing", 2)];
        check(&signs, true, Some("b"));
        check(&signs, false, Some("b"));
        let none = [("a", "compromised", 1), ("b", "compromised", 2), ("c", "published", 0)];
        check(&none, true, Some("b"));
        check(&none, false, None);
        check(&[("c", "published", 0)], true, None);
    }
}
