//! A real browser (Chromium, driven by npm `playwright-core`) that does what a test says, and tells what it sees.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::process::{Kept, PATIENCE};

/// Where `tests/run` installed the driver; none says that it was left out.
pub fn installed() -> Option<PathBuf> {
    let Ok(folder) = std::env::var("PROTEM_BROWSER") else {
        assert!(std::env::var("PROTEM_TEST_ALL").is_err(), "PROTEM_BROWSER names no folder");
        // Written past the harness's capture, so that plain `cargo test` says what it did not do.
        let mut shown = std::io::stderr();
        writeln!(shown, "left out: browser (tests/run runs it)").unwrap();
        return None;
    };
    Some(folder.into())
}

/// The browser; it ends with us.
#[derive(Clone)]
pub struct Browser(Arc<Mutex<Driver>>);

struct Driver {
    tell: Option<ChildStdin>,
    heard: BufReader<ChildStdout>,
    windows: usize,
    process: Kept,
}

/// A window with cookies of its own.
pub struct Window {
    browser: Browser,
    name: usize,
}

/// How a window is.
#[derive(Clone, Copy)]
pub struct Look {
    pub script: bool,
    pub dark: bool,
    pub width: u32,
    /// Whether the driver's own scripts may run beside the page's policy: for axe alone.
    pub bypass: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { script: true, dark: false, width: 1_100, bypass: false }
    }
}

/// What a server answered to a page.
pub struct Loaded {
    pub status: u64,
    pub url: String,
    headers: Value,
}

impl Loaded {
    /// A header of the answer; empty when it has none.
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].as_str().unwrap_or_default()
    }
}

impl Browser {
    pub fn start(folder: &Path) -> Self {
        let program = std::env::var("PROTEM_CHROMIUM").unwrap_or("/usr/bin/chromium".into());
        let mut command = Command::new("node");
        command.arg(folder.join("driver.mjs")).arg(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = command.spawn().unwrap();
        let (tell, heard) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut heard = BufReader::new(heard);
        let mut ready = String::new();
        heard.read_line(&mut ready).unwrap();
        assert!(ready.contains("ready"), "the browser does not start: {ready}");
        let driver = Driver { tell: Some(tell), heard, windows: 0, process: Kept(process) };
        Self(Arc::new(Mutex::new(driver)))
    }

    pub fn window(&self, look: Look) -> Window {
        let name = {
            let mut driver = self.0.lock().unwrap();
            driver.windows += 1;
            driver.windows
        };
        let window = Window { browser: self.clone(), name };
        let Look { script, dark, width, bypass } = look;
        let open = json!({"script": script, "dark": dark, "width": width, "bypass": bypass});
        window.ask("open", open);
        window
    }
}

impl Window {
    /// Does something, which must work.
    #[track_caller]
    fn ask(&self, what: &str, with: Value) -> Value {
        self.try_ask(what, with).unwrap_or_else(|why| {
            let at = self.try_ask("url", json!({}));
            let text = self.try_ask("text", json!({"at": "body"}));
            panic!("{what}: {why}\nat {at:?}: {text:?}")
        })
    }

    fn try_ask(&self, what: &str, mut with: Value) -> Result<Value, String> {
        with["do"] = json!(what);
        with["window"] = json!(self.name);
        let mut driver = self.browser.0.lock().unwrap();
        writeln!(driver.tell.as_mut().unwrap(), "{with}").unwrap();
        let mut line = String::new();
        driver.heard.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line).unwrap();
        match answer["error"].as_str() {
            Some(why) => Err(why.to_owned()),
            None => Ok(answer["ok"].take()),
        }
    }

    #[track_caller]
    pub fn go(&self, url: &str) -> Loaded {
        let mut answer = self.ask("go", json!({"url": url}));
        let (status, url) = (answer["status"].as_u64().unwrap(), answer["url"].as_str().unwrap());
        Loaded { status, url: url.to_owned(), headers: answer["headers"].take() }
    }

    /// Goes to an address that is no server's.
    pub fn try_go(&self, url: &str) {
        let _ = self.try_ask("go", json!({"url": url}));
    }

    #[track_caller]
    pub fn click(&self, at: &str) {
        self.ask("click", json!({"at": at}));
    }

    #[track_caller]
    pub fn fill(&self, at: &str, text: &str) {
        self.ask("fill", json!({"at": at, "text": text}));
    }

    #[track_caller]
    pub fn choose(&self, at: &str, text: &str) {
        self.ask("choose", json!({"at": at, "text": text}));
    }

    #[track_caller]
    pub fn check(&self, at: &str, on: bool) {
        self.ask("check", json!({"at": at, "on": on}));
    }

    #[track_caller]
    pub fn wait(&self, at: &str) {
        self.ask("wait", json!({"at": at}));
    }

    /// What a person reads there.
    #[track_caller]
    pub fn text(&self, at: &str) -> String {
        self.ask("text", json!({"at": at})).as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn count(&self, at: &str) -> u64 {
        self.ask("count", json!({"at": at})).as_u64().unwrap()
    }

    #[track_caller]
    pub fn url(&self) -> String {
        self.ask("url", json!({})).as_str().unwrap().to_owned()
    }

    /// Runs code in the page.
    #[track_caller]
    pub fn run(&self, code: &str) -> Value {
        self.ask("run", json!({"code": code}))
    }

    /// Cookies as the browser keeps them.
    #[track_caller]
    pub fn cookies(&self) -> Vec<Value> {
        self.ask("cookies", json!({})).as_array().unwrap().clone()
    }

    #[track_caller]
    pub fn plant(&self, cookies: &Value) {
        self.ask("plant", json!({"cookies": cookies}));
    }

    /// What went wrong since it was last asked: errors of scripts, of the page's own policy, and dialogs.
    #[track_caller]
    pub fn trouble(&self) -> Vec<String> {
        let said = self.ask("trouble", json!({}));
        said.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
    }

    /// A picture of the page.
    #[track_caller]
    pub fn shot(&self, file: &Path) {
        self.ask("shot", json!({"file": file}));
    }

    /// Serious and critical findings of axe-core.
    #[track_caller]
    pub fn barriers(&self) -> Vec<Value> {
        let found = self.ask("axe", json!({}));
        let grave =
            |one: &&Value| ["serious", "critical"].iter().any(|grave| one["impact"] == *grave);
        found.as_array().unwrap().iter().filter(grave).cloned().collect()
    }
}

impl Drop for Driver {
    /// It closes its browser and removes what that left when nobody tells it anything any more.
    fn drop(&mut self) {
        drop(self.tell.take());
        if !std::thread::panicking() {
            self.process.ended(PATIENCE);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let _ = self.try_ask("close", json!({}));
    }
}
