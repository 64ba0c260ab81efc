//! Opening a page in the user's browser, where there is a user and a browser, without telling anybody else its address.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use protem_clock::clock::{Clock, SystemClock};
use protem_clock::random;

use crate::cli::dev_key::state;
use crate::cli::private_file::{make_folder, write_private};

/// What leads a browser on; it is gone when this is dropped, unless it is left to a browser that has yet to read it.
pub struct Opened(Option<PathBuf>);

impl Opened {
    /// Leaves it where it is: a browser may take its time. What it leads to counts once and for minutes, and the next page that
    /// is opened removes it.
    pub fn left(mut self) {
        self.0 = None;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(file) = self.0.take() {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Opens a page. None where there is nobody to look at it, and nothing to do so with.
#[must_use]
pub fn browse(url: &str) -> Option<Opened> {
    if !std::io::stderr().is_terminal() || !std::io::stdin().is_terminal() {
        return None;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut openers = std::env::split_paths(&path).map(|folder| folder.join("xdg-open"));
    let opener = openers.find(|file| file.is_file())?;
    let folder = state().join("protem/open");
    tidy(&folder);
    let file = lead(&folder, url)?;
    let opened = Opened(Some(file.clone()));
    let mut command = std::process::Command::new(opener);
    command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().ok().map(|_| opened)
}

/// A file that leads to `url`. All users of a machine see how programs were called, and the address signs in whoever is
/// first; so the browser is told where the file is, which only its own user can read.
fn lead(folder: &Path, url: &str) -> Option<PathBuf> {
    make_folder(folder).ok()?;
    let file = folder.join(format!("{}.html", HEXLOWER.encode(&random::bytes::<8>())));
    write_private(&file, page(url).as_bytes()).ok()?;
    Some(file)
}

fn page(url: &str) -> String {
    let mut safe = String::with_capacity(url.len());
    for letter in url.chars() {
        match letter {
            '&' | '<' | '>' | '"' | '\'' => {
                let _ = write!(safe, "&#{};", u32::from(letter));
            }
            other => safe.push(other),
        }
    }
    format!(
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\
         <meta http-equiv=\"refresh\" content=\"0;url={safe}\"><title>protem</title>\
         <p><a href=\"{safe}\">Go on</a></p>\n"
    )
}

/// Removes what earlier calls left.
fn tidy(folder: &Path) {
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let written = file.metadata().and_then(|meta| meta.modified()).ok();
        let written = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        if written.is_some_and(|at| SystemClock.unix().saturating_sub(at) > OLD) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

/// When a page that was left has been read, and what it leads to has ended.
const OLD: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_page_leads_on_and_is_nobody_elses() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("open");
        let url = "https://idp.example/auth?a=1&b=\"><script>";
        let file = lead(&folder, url).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&folder)), (0o600, 0o700));
        let text = std::fs::read_to_string(&file).unwrap();
        let safe = "https://idp.example/auth?a=1&#38;b=&#34;&#62;&#60;script&#62;";
        assert!(text.contains(&format!("content=\"0;url={safe}\"")), "{text}");
        tidy(&folder);
        assert!(file.exists());
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(UNIX_EPOCH).unwrap();
        tidy(&folder);
        assert!(!file.exists());
        let (gone, left) = (lead(&folder, url).unwrap(), lead(&folder, url).unwrap());
        drop(Opened(Some(gone.clone())));
        Opened(Some(left.clone())).left();
        assert!(!gone.exists() && left.exists());
    }
}
