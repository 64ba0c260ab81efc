//! Texts that are made from the code: stale ones fail, and `PROTEM_GEN=1` writes them anew.

use std::fs;
use std::path::Path;

use protem::cli::reference::{errors_md, reference};
use protem::config::sample;

#[track_caller]
fn check(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("PROTEM_GEN").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    let stale = first_difference(&found, text);
    assert!(stale.is_none(), "{path} is stale at line {stale:?}: run `just gen`");
}

fn first_difference(found: &str, made: &str) -> Option<usize> {
    let lines = found.lines().count().max(made.lines().count());
    (0..lines).find(|at| found.lines().nth(*at) != made.lines().nth(*at)).map(|at| at + 1)
}

#[test]
fn generated_errors_are_current() {
    check("docs/errors.md", &errors_md());
}

#[test]
fn generated_command_line_is_current() {
    check("docs/cli.md", &reference());
}

#[test]
fn generated_sample_settings_are_current() {
    check("examples/protem.toml", &sample());
}

#[test]
fn generated_texts_that_differ_are_found() {
    assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
    assert_eq!(first_difference("a\n", "a\nb\n"), Some(2));
    assert_eq!(first_difference("a\n", "a\n"), None);
}

/// Rows of the attacks that this version answers to; without a test of its own none of them is answered.
const ROWS: &[(u32, u32)] = &[(1, 21), (24, 25), (31, 31), (34, 60), (63, 69), (71, 71), (74, 74)];

/// The table of attacks names tests; each of them is there, each attack of the code is named, and no row is missing.
#[test]
fn every_attack_of_the_table_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = std::collections::BTreeSet::new();
    for file in crate::process::files_under(&root.join("src"))
        .into_iter()
        .chain(crate::process::files_under(&root.join("tests/it")))
    {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let found = text.split("fn attack_").skip(1).filter_map(|rest| rest.split_once('('));
        tests.extend(found.map(|(name, _)| format!("attack_{name}")).filter(|name| is_name(name)));
    }
    let text = fs::read_to_string(root.join("docs/threats.md")).unwrap();
    let (_, table) = text.split_once("## Attacks and their tests").unwrap();
    let named = table.split('`').filter(|word| word.starts_with("attack_"));
    let named: std::collections::BTreeSet<String> = named.map(str::to_owned).collect();
    let gone: Vec<_> = named.difference(&tests).collect();
    assert!(gone.is_empty(), "docs/threats.md names tests that are not there: {gone:?}");
    let untold: Vec<_> = tests.difference(&named).collect();
    assert!(untold.is_empty(), "docs/threats.md does not name {untold:?}");
    let rows: Vec<u32> = table.lines().flat_map(rows_of).collect();
    let wanted = ROWS.iter().flat_map(|(first, last)| *first..=*last);
    let missing: Vec<u32> = wanted.filter(|row| !rows.contains(row)).collect();
    assert!(missing.is_empty(), "docs/threats.md has no row {missing:?}");
}

/// The rows that a line of the table is about, when a test is named in it.
fn rows_of(line: &str) -> Vec<u32> {
    let mut cells = line.trim_matches('|').split('|');
    let (rows, tests) = (cells.next().unwrap_or_default(), cells.nth(1).unwrap_or_default());
    if !tests.contains('`') {
        return Vec::new();
    }
    rows.split(',').filter_map(|row| row.trim().parse().ok()).collect()
}

fn is_name(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
