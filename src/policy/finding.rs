//! What a check of a bundle has to say: where, how bad, and what to write instead.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use protem_verify::codes::{Code, policy};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The bundle is wrong: no check passes, no broker activates it.
    Error,
    /// Only time made it wrong (a review is due, a secret overdue): fails a check, never an activation or a start.
    Age,
    /// Worth a look: fails nothing.
    Warning,
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The stable code, `PT-03…`.
    pub code: Code,
    /// The file's name inside the bundle; empty when it is about the bundle as a whole.
    pub file: Arc<str>,
    /// From 1; 0 when the finding is about a whole file.
    pub line: u32,
    /// In characters, from 1; 0 when the finding is about a whole file.
    pub column: u32,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Age => "overdue",
            Severity::Warning => "warning",
        };
        if self.file.is_empty() {
            return write!(f, "bundle: {word} {} {}", self.code.id, self.message);
        }
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, " {word} {} {}", self.code.id, self.message)
    }
}

/// Findings as they are collected.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    found: Vec<Finding>,
    /// Names that are missing only because of a mistake elsewhere, as far as can be told: they would hide that mistake.
    follow: Vec<Finding>,
    /// What the files define, right or wrong: a kind and a name.
    written: BTreeSet<(String, String)>,
    /// A file that may define anything cannot be read.
    unread: bool,
}

impl Findings {
    /// An error at `span` of `file`.
    pub fn error(&mut self, at: &At, code: Code, message: impl Into<String>) {
        self.push(Severity::Error, at, code, message.into());
    }

    /// The bundle writes down something of this kind and name, whatever is wrong with it.
    pub fn writes(&mut self, kind: &str, name: &str) {
        self.written.insert((kind.to_owned(), name.to_owned()));
    }

    /// An error: the bundle does not define what is named. It is told unless the mistake is where that is written.
    pub fn missing(
        &mut self,
        at: &At,
        code: Code,
        (kind, name): (&str, &str),
        message: impl Into<String>,
    ) {
        let written = self.written.contains(&(kind.to_owned(), name.to_owned()));
        let to = if written || self.unread { &mut self.follow } else { &mut self.found };
        push(to, Severity::Error, at, code, message.into());
    }

    /// Something that only age brought.
    pub fn age(&mut self, at: &At, code: Code, message: impl Into<String>) {
        self.push(Severity::Age, at, code, message.into());
    }

    /// Something worth a look.
    pub fn warning(&mut self, at: &At, code: Code, message: impl Into<String>) {
        self.push(Severity::Warning, at, code, message.into());
    }

    /// Whether there is an error among them.
    #[must_use]
    pub fn failed(&self) -> bool {
        let mut all = self.found.iter().chain(&self.follow);
        all.any(|finding| finding.severity == Severity::Error)
    }

    /// All of them, by file, line and column. What follows from other errors is left out beside them, and never without them.
    #[must_use]
    pub fn into_sorted(self) -> Vec<Finding> {
        let mut all = self.found;
        if !all.iter().any(|finding| finding.severity == Severity::Error) {
            all.extend(self.follow);
        }
        all.sort_by(|a, b| {
            (&a.file, a.line, a.column, a.code.id).cmp(&(&b.file, b.line, b.column, b.code.id))
        });
        all
    }

    fn push(&mut self, severity: Severity, at: &At, code: Code, message: String) {
        self.unread |= code == policy::BAD_FILE && !at.file.starts_with("tests/");
        push(&mut self.found, severity, at, code, message);
    }
}

fn push(to: &mut Vec<Finding>, severity: Severity, at: &At, code: Code, message: String) {
    // When there are too many, the first of each severity still counts: none may hide that a bundle is refused.
    if to.len() >= FINDINGS_MAX && to.iter().any(|found| found.severity == severity) {
        return;
    }
    let (line, column) = at.place;
    to.push(Finding { severity, code, file: at.file.clone(), line, column, message });
}

/// Findings that one check reports: more than this nobody reads, and a hostile bundle must not fill memory.
pub const FINDINGS_MAX: usize = 1_000;

/// A place in a bundle's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    file: Arc<str>,
    place: (u32, u32),
}

impl At {
    /// The bundle as a whole.
    #[must_use]
    pub fn bundle() -> Self {
        Self::file("")
    }

    /// A file as a whole.
    #[must_use]
    pub fn file(name: &str) -> Self {
        Self { file: name.into(), place: (0, 0) }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.place;
        write!(f, "{}:{line}:{column}", self.file)
    }
}

/// One file's text with the starts of its lines, so that a place costs a search instead of a scan.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name inside the bundle.
    pub name: Arc<str>,
    /// Its text.
    pub text: Arc<str>,
    starts: Arc<[usize]>,
}

impl Source {
    /// Indexes `text`.
    #[must_use]
    pub fn new(name: &Arc<str>, text: &str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at.saturating_add(1));
        let starts: Vec<usize> = std::iter::once(0).chain(breaks).collect();
        Self { name: name.clone(), text: text.into(), starts: starts.into() }
    }

    /// The place of a byte range's start.
    #[must_use]
    pub fn at(&self, span: &Range<usize>) -> At {
        let line = self.starts.partition_point(|start| *start <= span.start);
        let start = line.checked_sub(1).and_then(|at| self.starts.get(at)).copied().unwrap_or(0);
        let before = self.text.get(start..span.start).unwrap_or_default();
        let column = before.chars().count().saturating_add(1);
        At { file: self.name.clone(), place: (narrow(line), narrow(column)) }
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// `, did you mean …?` with the known name nearest to `text`, when one is near; else nothing.
#[must_use]
pub fn did_you_mean<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(text, known).map_or(String::new(), |name| format!(", did you mean `{name}`?"))
}

/// The known name nearest to `text`, at most a third of its letters (and at least two edits) away.
#[must_use]
pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > NEAREST_MAX {
        return None;
    }
    let allowed = text.chars().count().div_euclid(3).max(2);
    known
        .filter(|name| name.len() <= NEAREST_MAX)
        .map(|name| (distance(text, name), name))
        .filter(|(edits, _)| *edits <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// The longest text that is compared with names: a distance costs the product of two lengths.
const NEAREST_MAX: usize = 128;

/// Edits between two texts, where two swapped neighbours count as one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut older: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (row, left) in a.iter().enumerate() {
        let mut this = vec![row.saturating_add(1)];
        for (column, right) in b.iter().enumerate() {
            let at =
                |list: &[usize], column: usize| list.get(column).copied().unwrap_or(usize::MAX);
            let next = column.saturating_add(1);
            let swap = at(&last, column).saturating_add(usize::from(left != right));
            let mut best = swap.min(at(&last, next).saturating_add(1));
            best = best.min(at(&this, column).saturating_add(1));
            let crossed = row > 0
                && column > 0
                && a.get(row.wrapping_sub(1)) == Some(right)
                && b.get(column.wrapping_sub(1)) == Some(left);
            if crossed {
                best = best.min(at(&older, column.wrapping_sub(1)).saturating_add(1));
            }
            this.push(best);
        }
        older = std::mem::replace(&mut last, this);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let source = Source::new(&"a.toml".into(), "eins\nzwö = 3\n\nx");
        for (byte, place) in [(0, (1, 1)), (3, (1, 4)), (5, (2, 1)), (9, (2, 4)), (15, (4, 1))] {
            assert_eq!(source.at(&(byte..byte)).place, place, "{byte}");
        }
    }

    #[test]
    fn the_nearest_name_is_suggested() {
        let known = ["orders:read", "orders:refund", "crm:read"];
        for (text, near) in [
            ("orders:raed", Some("orders:read")),
            ("order:refund", Some("orders:refund")),
            ("payments", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, known.into_iter()), near, "{text}");
        }
    }
}
