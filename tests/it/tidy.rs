//! What the house promises about itself: who may use whom, and what a file looks like. Each check is shown to bite.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file may not grow beyond what one sitting reads.
const LINES_MAX: usize = 500;

/// A file of the repository: its path from the root, and its text.
struct File {
    path: String,
    text: String,
}

#[test]
fn rooms_use_only_what_the_table_allows() {
    let rooms = Rooms::parse(&read("docs/architecture.md"));
    assert!(rooms.0.len() >= 12, "the room table of docs/architecture.md was not found");
    report(rust().iter().flat_map(|file| rooms.trespasses(file)));
}

#[test]
fn every_room_exists() {
    let rooms = Rooms::parse(&read("docs/architecture.md"));
    let gone = |room: &&String| !root().join(room.as_str()).exists();
    report(rooms.0.keys().filter(gone).map(|room| format!("{room}: in the table, not on disk")));
    let homeless = |file: &&File| file.path.starts_with("src/") && rooms.of(&file.path).is_none();
    let known = ["src/lib.rs"];
    let files = rust();
    let homeless = files.iter().filter(homeless).filter(|file| !known.contains(&&*file.path));
    report(homeless.map(|file| format!("{}: in no room of the table", file.path)));
}

#[test]
fn files_open_with_a_sentence_and_stay_short() {
    report(rust().iter().flat_map(shape));
}

#[test]
fn things_are_imported_from_where_they_live() {
    report(rust().iter().flat_map(no_pub_use));
}

#[test]
fn proofs_are_made_in_one_place() {
    let files = rust();
    let tests = only_tests(&files);
    let kept = files.iter().filter(|file| !tests.contains(&file.path));
    report(kept.flat_map(makers));
}

#[test]
fn every_test_file_is_listed() {
    let listed = read("tests/it/main.rs");
    let files = rust();
    report(files.iter().flat_map(|file| unlisted(&file.path, &listed)));
}

#[test]
fn every_package_keeps_the_house_rules() {
    let manifests = all().into_iter().filter(|file| file.path.ends_with("Cargo.toml"));
    report(manifests.filter_map(|file| lints(&file)));
}

#[test]
fn no_machine_is_named() {
    report(all().iter().flat_map(machines));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let exists = |from: &str, to: &str| {
        let folder = Path::new(from).parent().unwrap_or(Path::new(""));
        root().join(folder).join(to).exists()
    };
    report(all().iter().flat_map(|file| dead_links(file, &exists)));
}

/// Each room's path, and the rooms it may use; `None`: all below.
struct Rooms(BTreeMap<String, Option<Vec<String>>>);

impl Rooms {
    /// From the table's rows: | floor | `path` | sentence | `a`, `b` |
    fn parse(page: &str) -> Self {
        let mut rooms = BTreeMap::new();
        for line in page.lines() {
            let cells: Vec<&str> =
                line.trim().trim_matches('|').split('|').map(str::trim).collect();
            let [floor, room, .., uses] = cells[..] else { continue };
            if floor.parse::<u8>().is_err() {
                continue;
            }
            let Some(room) = room.split('`').nth(1) else { continue };
            let named = uses.split([',', ' ']).map(|name| name.trim_matches('`').trim());
            let named = named.filter(|name| !name.is_empty() && *name != "–").map(str::to_owned);
            let uses = (uses != "all below").then(|| named.collect());
            rooms.insert(room.trim_end_matches('/').to_owned(), uses);
        }
        Self(rooms)
    }

    /// The room that a file is in: the longest path that it is under.
    fn of(&self, path: &str) -> Option<&str> {
        let within = |room: &&String| {
            path.strip_prefix(room.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.0.keys().filter(within).max_by_key(|room| room.len()).map(String::as_str)
    }

    fn trespasses(&self, file: &File) -> Vec<String> {
        let Some(room) = self.of(&file.path) else { return Vec::new() };
        let Some(Some(allowed)) = self.0.get(room) else { return Vec::new() };
        let here = word(room);
        let own = ["core", "gate", "verify", "clock", "proto"].contains(&here);
        let mut found = Vec::new();
        for (number, line) in code(&file.text) {
            let crates = if own { Vec::new() } else { after(line, "crate::") };
            let packages = after(line, "protem_");
            let itself = if here == "main.rs" { after(line, "protem::") } else { Vec::new() };
            for used in crates.into_iter().chain(packages).chain(itself) {
                let known = self.0.keys().any(|room| word(room) == used);
                if known && used != here && !allowed.iter().any(|name| name == used) {
                    found.push(format!("{}:{number}: `{here}` may not use `{used}`", file.path));
                }
            }
        }
        found
    }
}

/// A room's name: the last part of its path, without `.rs` where that names no program.
fn word(room: &str) -> &str {
    let last = room.rsplit('/').next().unwrap_or(room);
    if last == "main.rs" { last } else { last.trim_end_matches(".rs") }
}

/// The words that follow each `prefix` of a line.
fn after<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let starts = line.match_indices(prefix).filter(|(at, _)| {
        let before = line[..*at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || "_$".contains(letter))
    });
    let rest = starts.map(|(at, _)| &line[at + prefix.len()..]);
    rest.map(|rest| rest.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).next())
        .map(Option::unwrap_or_default)
        .collect()
}

/// The lines that are neither comment nor test, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text
        .lines()
        .zip(1..)
        .take_while(|(line, _)| !matches!(line.trim(), "#[cfg(test)]" | "#![cfg(test)]"));
    lines.map(|(line, number)| (number, line)).filter(|(_, line)| !line.trim().starts_with("//"))
}

fn shape(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    if !file.text.starts_with("//! ") {
        found.push(format!("{}: opens without a `//!` sentence", file.path));
    }
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{}: {lines} lines, more than {LINES_MAX}", file.path));
    }
    found
}

fn no_pub_use(file: &File) -> Vec<String> {
    let bad = |line: &str| {
        let line = line.trim();
        line.starts_with("pub use ") || (line.starts_with("pub(") && line.contains(") use "))
    };
    let found = code(&file.text).filter(|(_, line)| bad(line));
    found.map(|(number, _)| format!("{}:{number}: `pub use`", file.path)).collect()
}

/// The files of modules that exist in tests only.
fn only_tests(files: &[File]) -> Vec<String> {
    let mut tests = Vec::new();
    for file in files {
        let Some((folder, _)) = file.path.rsplit_once('/') else { continue };
        let declared = file.text.split("#[cfg(test)]\nmod ").skip(1);
        let named = declared.filter_map(|rest| rest.split_once(';').map(|(name, _)| name));
        let named = named.filter(|name| !name.contains(char::is_whitespace));
        tests.extend(named.map(|name| format!("{folder}/{name}.rs")));
    }
    tests
}

/// Values that are proofs, and the one room that makes each.
fn makers(file: &File) -> Vec<String> {
    let proofs = [
        ("Verdict::from_policy(", "src/policy/"),
        ("ApproverVerdict::from_policy(", "src/policy/"),
        ("Committed::new(", "src/journal/"),
    ];
    let mut found = Vec::new();
    for (number, line) in code(&file.text).filter(|_| file.path.starts_with("src/")) {
        for (maker, room) in proofs {
            let elsewhere = !file.path.starts_with(room);
            if elsewhere && !after(line, maker).is_empty() {
                found.push(format!("{}:{number}: `{maker}…)` outside {room}", file.path));
            }
        }
    }
    found
}

fn unlisted(path: &str, main: &str) -> Option<String> {
    let name = path.strip_prefix("tests/it/")?.trim_end_matches(".rs");
    let name = name.split('/').next()?;
    let listed = main.lines().any(|line| line.trim() == format!("mod {name};"));
    (name != "main" && !listed).then(|| format!("{path}: not listed in tests/it/main.rs"))
}

fn lints(file: &File) -> Option<String> {
    // Generated code keeps no house rules, so the wire's package has its own short table.
    let excused = file.path == "proto/Cargo.toml" && file.text.contains("Generated code");
    let keeps = file.text.contains("[lints]\nworkspace = true");
    (!keeps && !excused).then(|| format!("{}: no `[lints] workspace = true`", file.path))
}

fn machines(file: &File) -> Vec<String> {
    // Spelled in halves, so that this file does not name them either.
    let words = [["/wo", "rk/"], ["/tmp/", "wt"], ["/tmp/", "target-"], ["/ro", "ot/"]];
    let words = words.map(|halves| halves.concat());
    let named = |line: &str| words.iter().any(|word| line.contains(word.as_str()));
    let found = file.text.lines().zip(1..).filter(|(line, _)| named(line));
    found.map(|(_, number)| format!("{}:{number}: names somebody's machine", file.path)).collect()
}

fn dead_links(file: &File, exists: &dyn Fn(&str, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    if !file.path.ends_with(".md") {
        return found;
    }
    for (line, number) in file.text.lines().zip(1..) {
        for rest in line.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            let local = !target.is_empty() && !target.contains(':');
            if local && !exists(&file.path, target) {
                found.push(format!("{}:{number}: `{target}` is not there", file.path));
            }
        }
    }
    found
}

/// Fails with all that was found, one a line.
#[track_caller]
fn report(found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rust() -> Vec<File> {
    all().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// Every text file that is ours: what lies in the house's folders, and the files at its top.
fn all() -> Vec<File> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["docs", "examples", "policies", "proto", "src", "tests", ".ci"]
            .map(|folder| root().join(folder))
            .into();
    paths.extend(files(root()).into_iter().filter(|path| path.is_file()));
    while let Some(folder) = folders.pop() {
        for path in files(&folder) {
            if path.is_dir() { folders.push(path) } else { paths.push(path) }
        }
    }
    paths.sort();
    let relative = |path: &PathBuf| path.strip_prefix(root()).unwrap().display().to_string();
    let text =
        |path: PathBuf| Some(File { path: relative(&path), text: fs::read_to_string(&path).ok()? });
    paths.into_iter().filter_map(text).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let skipped = ["target", ".git", "__pycache__", ".venv", ".protem-dev"];
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let kept = |path: &PathBuf| !skipped.iter().any(|name| path.ends_with(name));
    paths.filter(kept).collect()
}

/// Each check finds the defect in a sample that has it, and nothing in one that has not.
mod bites {
    use super::{
        File, Rooms, dead_links, lints, machines, makers, no_pub_use, only_tests, shape, unlisted,
    };

    const TABLE: &str = "| floor | room | what | may use |\n|---|---|---|---|\n\
        | 8 | `src/main.rs` | Starts. | cli |\n| 7 | `src/cli/` | Types. | all below |\n\
        | 3 | `src/journal/` | Keeps. | core, verify |\n| 2 | `src/core/` * | Law. | verify |\n\
        | 1 | `src/verify/` * | Checks. | – |\n";

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[track_caller]
    fn check(found: &[String], expect: usize) {
        assert_eq!(found.len(), expect, "{found:?}");
    }

    #[test]
    fn an_import_upstairs_is_found() {
        let rooms = Rooms::parse(TABLE);
        let cases = [
            ("src/core/decide.rs", "use protem_verify::time::Time;", 0),
            ("src/core/decide.rs", "use protem_core::state::State;", 0),
            ("src/verify/view.rs", "use protem_core::state::State;", 1),
            ("src/journal/port.rs", "use crate::cli::run;", 1),
            ("src/journal/port.rs", "    crate::cli::run();", 1),
            ("src/journal/port.rs", "// crate::cli is elsewhere", 0),
            ("src/journal/port.rs", "#[cfg(test)]\nuse crate::cli::run;", 0),
            ("src/journal/port.rs", "use crate::journal::fault::Fault;", 0),
            ("src/cli/serve.rs", "use crate::journal::fault::Fault;", 0),
            ("src/main.rs", "use protem::journal::fault::Fault;", 1),
            ("src/main.rs", "fn main() { protem::cli::main() }", 0),
        ];
        for (path, text, expect) in cases {
            check(&rooms.trespasses(&file(path, text)), expect);
        }
    }

    #[test]
    fn a_bad_shape_is_found() {
        check(&shape(&file("src/a.rs", "//! Good.\n")), 0);
        check(&shape(&file("src/a.rs", "use std::fmt;\n")), 1);
        check(&shape(&file("src/a.rs", &format!("//! Long.\n{}", "\n".repeat(500)))), 1);
    }

    #[test]
    fn a_second_address_is_found() {
        check(&no_pub_use(&file("src/a.rs", "pub use a::B;\npub(crate) use a::C;\nuse a::D;")), 2);
    }

    #[test]
    fn a_forged_proof_is_found() {
        let forged = "let v = Verdict::from_policy(r); let c = Committed::new(s, t, a, e);";
        check(&makers(&file("src/engine/a.rs", forged)), 2);
        check(&makers(&file("src/policy/a.rs", "Verdict::from_policy(r)")), 0);
        check(&makers(&file("src/engine/a.rs", "ApproverVerdict::from_policy(r)")), 1);
        check(&makers(&file("src/engine/a.rs", "#[cfg(test)]\nVerdict::from_policy(r)")), 0);
    }

    #[test]
    fn files_of_tests_are_told_apart() {
        let text = "pub mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(only_tests(&[file("src/core/lib.rs", text)]), ["src/core/b.rs"]);
    }

    #[test]
    fn a_forgotten_test_is_found() {
        assert!(unlisted("tests/it/lost.rs", "mod found;").is_some());
        assert!(unlisted("tests/it/found.rs", "mod found;").is_none());
        assert!(unlisted("tests/it/found/more.rs", "mod found;").is_none());
        assert!(unlisted("src/lost.rs", "").is_none());
    }

    #[test]
    fn a_package_without_rules_is_found() {
        assert!(lints(&file("src/x/Cargo.toml", "[package]\n")).is_some());
        assert!(lints(&file("src/x/Cargo.toml", "[lints]\nworkspace = true\n")).is_none());
        assert!(lints(&file("proto/Cargo.toml", "# Generated code keeps none")).is_none());
    }

    #[test]
    fn a_machine_is_found() {
        let path = ["see /wo", "rk/x"].concat();
        check(&machines(&file("docs/a.md", &path)), 1);
        check(&machines(&file("docs/a.md", "a framework/x")), 0);
    }

    #[test]
    fn a_dead_link_is_found() {
        let page = file("docs/a.md", "[a](b.md) [c](https://x.example) [d](#e) [f](g.md#h)");
        check(&dead_links(&page, &|_, to| to == "b.md"), 1);
    }
}
