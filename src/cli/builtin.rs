//! The built-in example bundle: the repository's own `policies/`, so that `dev` and `demo` need no files.

use std::sync::Arc;

use crate::policy::bundle::Files;

/// The bundle.
#[must_use]
pub fn files() -> Files {
    let mut files: Vec<(Arc<str>, Arc<[u8]>)> =
        FILES.iter().map(|(name, text)| (Arc::from(*name), Arc::from(text.as_bytes()))).collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files.into()
}

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../policies/", $name)))),*]
    };
}

/// Names inside the folder, and texts.
pub const FILES: &[(&str, &str)] = embed![
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::bundle::read_folder;
    use std::path::Path;

    #[test]
    fn it_is_the_repositorys_own() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        assert_eq!(read_folder(&folder).unwrap(), files());
    }
}
