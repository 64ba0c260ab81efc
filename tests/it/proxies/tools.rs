//! Where the real proxies are, and what plain `cargo test` says when they are not there.

use std::io::Write;
use std::path::PathBuf;

/// The folder that `tests/run` fills: `bin/nginx`, `bin/caddy`, `bin/envoy`, `lib/libfaketime.so`.
pub struct Tools(PathBuf);

/// The tools, or a word about what is left out without them.
pub fn tools(what: &str) -> Option<Tools> {
    let Ok(folder) = std::env::var("PROTEM_PROXIES") else {
        assert!(std::env::var("PROTEM_TEST_ALL").is_err(), "PROTEM_PROXIES names no folder");
        // Written past the harness's capture, so that plain `cargo test` says what it did not do.
        let mut past = std::io::stderr();
        writeln!(past, "left out: {what} (tests/run runs it)").unwrap();
        return None;
    };
    Some(Tools(folder.into()))
}

impl Tools {
    /// A program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.there(self.0.join("bin").join(name))
    }

    /// What lets a process see another wall clock.
    pub fn faketime(&self) -> PathBuf {
        self.there(self.0.join("lib/libfaketime.so"))
    }

    fn there(&self, file: PathBuf) -> PathBuf {
        assert!(file.exists(), "{} is missing: tests/run puts it there", file.display());
        file
    }
}
