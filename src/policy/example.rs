//! The bundle that works without any folder: the repository's own `policies/`, built in.

use std::sync::Arc;

use crate::policy::bundle::Files;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../policies/", $name)).as_slice())),*]
    };
}

const FILES: &[(&str, &[u8])] = built_in![
    "catalog.toml",
    "identities.toml",
    "issuers.toml",
    "payments.cedar",
    "people.cedar",
    "people.toml",
    "shop.cedar",
    "tests/access.toml",
    "tests/people.toml",
];

/// The built-in example: what `protem dev` uses without `./policies`, and what `protem init` writes.
#[must_use]
pub fn example() -> Files {
    FILES.iter().map(|(name, bytes)| (Arc::from(*name), Arc::from(*bytes))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use protem_verify::time::Time;

    use super::*;
    use crate::policy::bundle::{Bundle, Load, check, digest, read_folder};

    #[test]
    fn the_example_has_no_errors_and_warns_only_that_it_names_no_webhook() {
        let found = check(example(), Time::from_secs(1_795_000_000));
        let codes: Vec<&str> = found.iter().map(|finding| finding.code.id).collect();
        assert_eq!(codes, ["PT-0370"], "{found:?}");
        assert!(Bundle::load(example(), Load::Activate, true).is_ok());
    }

    #[test]
    fn the_example_is_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        let files = read_folder(&folder).unwrap();
        let names = |files: &Files| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&files), names(&example()));
        assert_eq!(digest(&files), digest(&example()));
    }
}
