//! The signing keys: which there are, what each waits for, and replacing one by hand.

use protem_core::event::KeyPurpose;
use protem_core::grant::KeyState;
use protem_proto::wire::v1;
use protem_verify::codes::wire;
use protem_verify::names::KeyId;
use protem_verify::time::Time;

use crate::engine::broker::Broker;
use crate::engine::plan::Waits;
use crate::engine::rotation::{Halted, Replacement, ShownKey};
use crate::journal::fault::Fault;
use crate::policy::login::Caller;
use crate::serve::status::Problem;
use crate::serve::{parse, show};

/// The signing keys that the journal knows, by purpose and age.
///
/// # Errors
/// When the state cannot be asked.
pub async fn list(broker: &Broker) -> Result<Vec<v1::Key>, Problem> {
    let mut keys = broker.keys().await.map_err(problem)?;
    keys.sort_by_key(|key| (key.record.key.purpose, key.record.published));
    Ok(keys.iter().map(shown).collect())
}

/// Lets another key sign. Whether the caller may was decided before.
///
/// # Errors
/// When what is asked makes no sense, there is no such key, or the world broke.
pub async fn rotate(
    broker: &Broker,
    caller: &Caller,
    asked: v1::RotateKeyRequest,
) -> Result<v1::RotateKeyResponse, Problem> {
    let note = parse::required_words("note", &asked.note)?;
    let purpose = match asked.purpose.as_str() {
        "" | "credential" => KeyPurpose::Credential,
        "checkpoint" => KeyPurpose::Checkpoint,
        _ => {
            let why = "is neither `credential` nor `checkpoint`";
            return Err(Problem::field(wire::MALFORMED, "purpose", why));
        }
    };
    let key = match asked.replaces.as_str() {
        "" => None,
        id => Some(
            KeyId::try_from(id)
                .map_err(|bad| Problem::field(wire::MALFORMED, "replaces", &bad.to_string()))?,
        ),
    };
    let asked = Replacement { purpose, key, compromised: asked.compromised, note };
    let done = broker.replace_key(caller.actor(), asked).await.map_err(problem)?;
    Ok(v1::RotateKeyResponse {
        key_id: done.key.map(|key| key.to_string()).unwrap_or_default(),
        seq: done.mark.seq.0,
        replaced: done.replaced.to_string(),
        signs: done.signs,
        waits_for: waits(done.waits),
    })
}

fn problem(halted: Halted) -> Problem {
    match halted {
        Halted::Stop(stop) => stop.into(),
        Halted::Unkept(why) => {
            tracing::error!(%why, "the key folder cannot be changed");
            Fault::Store("the key folder cannot be changed".to_owned()).into()
        }
    }
}

fn shown(key: &ShownKey) -> v1::Key {
    let record = &key.record;
    let some = |time: Time| (time != Time::ZERO).then(|| show::time(time));
    let published = record.state == KeyState::Published;
    v1::Key {
        key_id: record.key.id.to_string(),
        purpose: purpose(record.key.purpose).to_owned(),
        state: state(record.state).to_owned(),
        created: Some(show::time(record.created)),
        last_token_expires: some(record.last_exp),
        signs_since: some(record.since),
        signs: key.signs,
        private_half_here: key.here,
        waits_for: waits(key.waits),
        known_by: if published { show::enforcement(&key.enforcement) } else { Vec::new() },
    }
}

fn waits(waits: Waits) -> String {
    let at = |time: Time| {
        let seconds = std::time::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs());
        humantime::format_rfc3339_seconds(seconds).to_string()
    };
    match waits {
        Waits::Nothing => String::new(),
        Waits::Gateways => {
            "the word of every gateway that it knows the key, or the bound".to_owned()
        }
        Waits::Pollers(until) => {
            format!("those who read the key set now and then, until {}", at(until))
        }
        Waits::Turn(turn) => format!("its turn at {}", at(turn)),
        Waits::Asked => "`protem keys rotate`, as there is no schedule".to_owned(),
        Waits::Room => {
            "earlier keys to be forgotten, as many are known as gateways hold".to_owned()
        }
        Waits::Dying(until) => format!("the last that it signed to die, at {}", at(until)),
    }
}

fn purpose(purpose: KeyPurpose) -> &'static str {
    match purpose {
        KeyPurpose::Credential => "credential",
        KeyPurpose::Checkpoint => "checkpoint",
    }
}

fn state(state: KeyState) -> &'static str {
    match state {
        KeyState::Published => "published",
        KeyState::Signing => "signing",
        KeyState::Retired => "retired",
        KeyState::CutOff => "compromised",
    }
}
