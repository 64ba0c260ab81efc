//! How a command ends: its exit code, and on failure three lines that say what happened, why, and what helps.

use std::fmt;

use protem_verify::codes::Code;
use protem_verify::codes::tool;

/// An exit code of the documented table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: failed.
    Failed,
    /// 2: the arguments are wrong.
    Usage,
    /// 3: policy or a person said no, or the request lapsed or was withdrawn.
    Denied,
    /// 4: the broker does not know the caller.
    NotAuthenticated,
    /// 5: there is no such thing, or it is not the caller's.
    NotFound,
    /// 6: the request still waits.
    Pending,
    /// 7: the broker cannot be reached, or cannot answer now.
    Unreachable,
    /// `protem run`: the command's own code, 124 to 127, or 128 and the signal.
    Command(u8),
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::NotAuthenticated => 4,
            Self::NotFound => 5,
            Self::Pending => 6,
            Self::Unreachable => 7,
            Self::Command(code) => code,
        }
    }
}

/// `protem run`: access ended before the command did.
pub const ENDED_EARLY: u8 = 124;
/// `protem run`: no access was got.
pub const NO_ACCESS: u8 = 125;
/// `protem run`: the command cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// `protem run`: there is no such command.
pub const NO_COMMAND: u8 = 127;

/// The table of exit codes, as `--help` and the reference show it.
pub const TABLE: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  denied by policy or a person, lapsed or withdrawn
  4  not authenticated
  5  not found
  6  still pending
  7  broker unreachable
`protem run` ends with the command's own code, or 124 when access ended early,
125 when no access was got, 126 or 127 when the command cannot be started, 128+n when a signal ended it.";

/// Why a command failed, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened.
    pub what: String,
    /// Why; further lines are possible.
    pub why: String,
    /// The stable code, `PT-…`; may be empty.
    pub code: String,
    /// What helps, if possible a command.
    pub help: String,
}

impl Failure {
    /// A failure that a code describes, with `what` in this case's words.
    #[must_use]
    pub fn of(exit: Exit, code: Code, what: impl Into<String>) -> Self {
        let (why, help) = (code.why.to_owned(), code.remedy.to_owned());
        Self { exit, what: what.into(), why, code: code.id.to_owned(), help }
    }

    /// A local file that could not be used.
    #[must_use]
    pub fn file(path: &std::path::Path, why: &std::io::Error) -> Self {
        let what = format!("`{}`: {why}", path.display());
        Self::of(Exit::Failed, tool::LOCAL_FILE, what)
    }

    /// The same failure with another exit code.
    #[must_use]
    pub fn exits(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// The same failure with another reason.
    #[must_use]
    pub fn because(self, why: impl Into<String>) -> Self {
        Self { why: why.into(), ..self }
    }

    /// The same failure with one more reason.
    #[must_use]
    pub fn beside(self, more: &str) -> Self {
        let why =
            if self.why.is_empty() { more.to_owned() } else { format!("{}; {more}", self.why) };
        Self { why, ..self }
    }

    /// The same failure with other help.
    #[must_use]
    pub fn helps(self, help: impl Into<String>) -> Self {
        Self { help: help.into(), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", visible(&self.what))?;
        match (self.why.is_empty(), self.code.is_empty()) {
            (false, false) => write!(f, "\n  why:  {} ({})", visible(&self.why), self.code)?,
            (false, true) => write!(f, "\n  why:  {}", visible(&self.why))?,
            (true, false) => write!(f, "\n  why:  {}", self.code)?,
            (true, true) => {}
        }
        if !self.help.is_empty() {
            write!(f, "\n  help: {}", visible(&self.help))?;
        }
        Ok(())
    }
}

/// Text of others with control and direction characters escaped, so that it cannot play with the terminal.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter != '\n' && protem_verify::names::unprintable(letter) {
            out.extend(letter.escape_unicode());
        } else {
            out.push(letter);
        }
    }
    out
}

/// The same in one line: what somebody else wrote cannot make up a line that looks like ours.
#[must_use]
pub fn in_a_line(text: &str) -> String {
    visible(text).replace('\n', "\\u{a}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_lines_say_what_why_and_what_helps() {
        let failure = Failure::of(Exit::Unreachable, tool::UNREACHABLE, "no answer");
        let text = failure.to_string();
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("(PT-0701)"), "{text}");
        assert_eq!(failure.exit.code(), 7);
    }

    #[test]
    fn words_of_others_cannot_move_the_cursor() {
        assert_eq!(visible("a\u{1b}[2Jb\u{202e}"), "a\\u{1b}[2Jb\\u{202e}");
        assert_eq!(in_a_line("a\nerror: b\r"), "a\\u{a}error: b\\u{d}");
    }
}
