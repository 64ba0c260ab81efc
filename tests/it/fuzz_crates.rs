//! The fuzzer's own manifest, which no build of ours reads.

use std::fs;
use std::path::Path;

/// Its sources compile here as a part of these tests, so a crate that its own manifest lacks is only missed by a fuzzer.
#[test]
fn the_fuzzer_has_the_crates_that_it_uses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
    let own: toml::Table = toml::from_str(&manifest).unwrap();
    let ours: toml::Table =
        toml::from_str(&fs::read_to_string(root.join("Cargo.toml")).unwrap()).unwrap();
    let sources: String = fs::read_dir(root.join("fuzz"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let used = |name: &str| {
        let path = format!("{}::", name.replace('-', "_"));
        let mut found = sources.match_indices(&path);
        let before = |at: usize| sources[..at].chars().next_back();
        found.any(|(at, _)| {
            before(at).is_none_or(|one| !one.is_alphanumeric() && !"_:".contains(one))
        })
    };
    let mut seen = 0;
    for kind in ["dependencies", "dev-dependencies"] {
        for (name, _) in ours[kind].as_table().unwrap() {
            if used(name) {
                assert!(own["dependencies"].get(name).is_some(), "fuzz/Cargo.toml lacks `{name}`");
                seen += 1;
            }
        }
    }
    assert!(seen >= 8, "{seen} crates");
}
