//! How things are shown: data on stdout, talk on stderr, colour only on a terminal.

use std::io::{IsTerminal, Write};
use std::sync::{LazyLock, OnceLock};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use protem_proto::wire::DESCRIPTORS;

use crate::cli::args::Output;
use crate::cli::exit::{Exit, Failure};

/// Where and how a command shows what it has.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Machines read along.
    pub json: bool,
    /// stderr is a terminal: lines may be drawn anew.
    pub live: bool,
    /// Colour is welcome on stderr.
    pub colour: bool,
}

/// A role that a piece of text has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tint {
    /// It went well.
    Good,
    /// It did not.
    Bad,
    /// Not so important.
    Dim,
    /// A heading.
    Bold,
}

/// Why data could not be written, when it could not.
static LOST: OnceLock<String> = OnceLock::new();

/// Why some of the data that was printed is lost; `None` when all of it was written.
#[must_use]
pub fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

impl Screen {
    /// For this process.
    #[must_use]
    pub fn new(output: Output) -> Self {
        let live = std::io::stderr().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        // What is tinted may go to either stream: one of them in a file, and both stay plain.
        let colour = live && std::io::stdout().is_terminal() && !plain;
        Self { json: output == Output::Json, live, colour }
    }

    /// Text in a role.
    #[must_use]
    pub fn tint(&self, tint: Tint, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tint {
            Tint::Good => "32",
            Tint::Bad => "31",
            Tint::Dim => "2",
            Tint::Bold => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Says something to a person, on stderr.
    pub fn say(&self, text: impl AsRef<str>) {
        // A closed stderr must not stop the work.
        let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
    }

    /// Draws a line that the next one replaces; nothing where that cannot be.
    pub fn draw(&self, text: &str) {
        if self.live {
            let _ = write!(std::io::stderr(), "\r\u{1b}[2K{text}");
            let _ = std::io::stderr().flush();
        }
    }

    /// Takes the drawn line away.
    pub fn clear(&self) {
        self.draw("");
    }

    /// Prints data, on stdout.
    pub fn print(&self, text: impl AsRef<str>) {
        let mut out = std::io::stdout();
        let written = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
        if let Err(why) = written
            && why.kind() != std::io::ErrorKind::BrokenPipe
        {
            // A reader that has gone (`| head`) has read enough; a full disk has lost what was asked for.
            LOST.get_or_init(|| why.to_string());
        }
    }

    /// Prints a message as canonical JSON, in one line for streams or in many for one answer.
    ///
    /// # Errors
    /// When the descriptors and the generated code do not agree.
    pub fn json(&self, name: &str, message: &impl Message, stream: bool) -> Result<(), Failure> {
        let value = to_json(name, message)?;
        let text = if stream { serde_json::to_string(&value) } else { to_pretty(&value) };
        self.print(text.unwrap_or_default());
        Ok(())
    }
}

fn to_pretty(value: &serde_json::Value) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value)
}

/// A message as protobuf's canonical JSON.
///
/// # Errors
/// When the descriptors and the generated code do not agree.
pub fn to_json(name: &str, message: &impl Message) -> Result<serde_json::Value, Failure> {
    let bad = |why: String| Failure {
        exit: Exit::Failed,
        what: format!("`{name}` cannot be shown as JSON"),
        why,
        code: String::new(),
        help: "this is a defect; report it".to_owned(),
    };
    let pool = POOL.as_ref().ok_or_else(|| bad("the descriptors cannot be read".to_owned()))?;
    let descriptor = pool
        .get_message_by_name(&format!("protem.v1.{name}"))
        .ok_or_else(|| bad("there is no such message".to_owned()))?;
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor, bytes.as_slice());
    let dynamic = dynamic.map_err(|why| bad(why.to_string()))?;
    serde_json::to_value(&dynamic).map_err(|why| bad(why.to_string()))
}

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

/// Rows in aligned columns, a heading first; the last column is not padded.
#[must_use]
pub fn columns(heads: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let all = || std::iter::once(&head).chain(rows);
    let wide = |at: usize| all().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max();
    let lines = all().map(|row| {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if at + 1 < row.len() {
                let gap = (wide(at).unwrap_or(0) + 2).saturating_sub(cell.chars().count());
                line.push_str(&" ".repeat(gap));
            }
        }
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protem_proto::wire::v1;

    #[test]
    fn json_is_the_canonical_mapping() {
        let grant = v1::Grant {
            id: "gr_1".into(),
            state: v1::GrantState::Active.into(),
            lifetime: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
            requested_at: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            seq: 7,
            ..v1::Grant::default()
        };
        let json = to_json("Grant", &grant).unwrap();
        assert_eq!(json["state"], "GRANT_STATE_ACTIVE");
        assert_eq!(json["lifetime"], "90s");
        assert_eq!(json["requestedAt"], "1970-01-01T00:00:00Z");
        assert_eq!(json["seq"], "7");
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(columns(&["X", "Y"], &rows), "X    Y\na    bb\nccc  d");
    }
}
