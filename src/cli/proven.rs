//! What a proof is worth: by whose keys something is whole, and how that is told.

use std::path::Path;

use protem_verify::codes::tool;
use protem_verify::ids::Hash;
use protem_verify::keys::Keys;
use protem_verify::names::KeyId;

use crate::cli::args::Global;
use crate::cli::args_operate::PinArgs;
use crate::cli::client::broker;
use crate::cli::exit::{Exit, Failure, visible};
use crate::cli::output::{Screen, Tint};

/// Whose signature counts, as who verifies knows it.
#[derive(Default)]
pub(in crate::cli) struct Pin {
    /// The keys that may have signed, instead of those that come with the proof.
    pub(in crate::cli) keys: Option<Keys>,
    /// Those of them that may, where not all may.
    pub(in crate::cli) ids: Vec<KeyId>,
}

impl Pin {
    pub(in crate::cli) async fn of(global: &Global, args: &PinArgs) -> Result<Self, Failure> {
        let bad = |what: String| Failure::of(Exit::Usage, tool::USAGE, what);
        let ids = args.key_id.iter().map(|id| KeyId::try_from(id.trim()));
        let ids = ids.collect::<Result<_, _>>().map_err(|why| bad(why.to_string()))?;
        let Some(from) = &args.jwks else { return Ok(Self { keys: None, ids }) };
        let text = if from.contains("://") {
            let fetched = broker(global)?.1.get(from, None).await;
            let unread = |why| unproven(format!("`{}` cannot be read", visible(from))).because(why);
            fetched.map_err(unread)?.to_string()
        } else {
            let path = Path::new(from);
            std::fs::read_to_string(path).map_err(|why| Failure::file(path, &why))?
        };
        let keys = Keys::parse(&text).map_err(|why| unproven(why.to_string()))?;
        Ok(Self { keys: Some(keys), ids })
    }

    pub(in crate::cli) fn is_any(&self) -> bool {
        self.keys.is_some() || !self.ids.is_empty()
    }

    /// The keys that count, of those that come with what is to be proven or instead of them.
    pub(in crate::cli) fn counts(&self, told: Keys) -> Result<Keys, Failure> {
        let known = self.keys.clone().unwrap_or(told);
        let keys = if self.ids.is_empty() { known } else { known.only(&self.ids) };
        if self.is_any() && keys.ids().next().is_none() {
            return Err(unproven("none of the keys that you named is there"));
        }
        Ok(keys)
    }
}

/// What was proven.
pub(in crate::cli) struct Proven {
    pub(in crate::cli) entries: u64,
    pub(in crate::cli) of: String,
    pub(in crate::cli) root: Hash,
    pub(in crate::cli) keys: Vec<String>,
    /// By whose keys.
    pub(in crate::cli) by: By,
}

/// Whose word it is that something is whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum By {
    /// Of keys that who verifies has named.
    Pinned,
    /// Of the keys that a broker shows.
    Broker,
    /// Of the keys that the file itself names, which may be anybody's.
    Itself,
    /// Of nobody: a journal file holds no signature.
    Nobody,
}

pub(in crate::cli) fn show(screen: &Screen, proven: &Proven) {
    if screen.json {
        let value = serde_json::json!({
            "verified": true, "entries": proven.entries, "of": proven.of,
            "root": proven.root.to_string(), "checkpointKeys": proven.keys,
            "pinned": proven.by == By::Pinned,
        });
        screen.print(value.to_string());
        return;
    }
    let what = format!("{} entries of {}", proven.entries, proven.of);
    screen.print(match proven.by {
        By::Itself => screen.tint(
            Tint::Bold,
            &format!("unpinned: {what} are whole by the key that the file itself names"),
        ),
        By::Pinned | By::Broker | By::Nobody => {
            screen.tint(Tint::Good, &format!("verified: {what}"))
        }
    });
    screen.print(format!("  root {}", proven.root));
    for key in &proven.keys {
        screen.print(format!("  signed by checkpoint key {key}"));
    }
    if proven.by == By::Itself {
        screen.say("  anybody can make such a file: `--key-id ID` or `--jwks FILE` names the broker's own key, which `protem keys list` shows");
    }
}

/// Something that is not proven.
pub(in crate::cli) fn unproven(what: impl Into<String>) -> Failure {
    Failure::of(Exit::Failed, tool::UNPROVEN, what)
}
