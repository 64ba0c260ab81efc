//! A certified OpenID Connect provider as a process (npm `oidc-provider`), a browser without a screen, and a real broker that
//! trusts the one and is asked for by the other.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use protem::policy::bundle::Files;

use crate::ports::free_port;
use crate::process::{Kept, Ran, program, ran, until};

/// Where `tests/run` installed the provider; none says that it was left out.
pub fn installed() -> Option<PathBuf> {
    let Ok(folder) = std::env::var("PROTEM_OIDC") else {
        assert!(std::env::var("PROTEM_TEST_ALL").is_err(), "PROTEM_OIDC names no folder");
        // Written past the harness's capture, so that plain `cargo test` says what it did not do.
        let mut shown = std::io::stderr();
        writeln!(shown, "left out: OpenID Connect provider (tests/run runs it)").unwrap();
        return None;
    };
    Some(folder.into())
}

/// The provider; it ends with us.
pub struct Provider {
    _process: Kept,
    pub issuer: String,
}

impl Provider {
    /// With tokens that live for so many seconds.
    pub fn start(folder: &Path, life: u32) -> Self {
        let mut command = Command::new("node");
        command.arg(folder.join("provider.mjs")).arg(life.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut issuer = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut issuer).unwrap();
        let issuer = issuer.trim().to_owned();
        assert!(issuer.starts_with("http://127.0.0.1:"), "{issuer}");
        Self { _process: Kept(process), issuer }
    }

    /// A client's own token for `audience`, signed with `alg`.
    pub fn workload(&self, alg: &str, audience: &str) -> String {
        let form = format!(
            "grant_type=client_credentials&client_id=agent-{alg}&client_secret=a+secret+of+the+test&resource={audience}"
        );
        let page = Browser::default().ask("POST", &format!("{}/token", self.issuer), Some(&form));
        let answer: serde_json::Value = serde_json::from_str(&page.body).unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

/// A browser without a screen: it keeps cookies, follows redirects, and fills in the provider's forms.
#[derive(Default)]
pub struct Browser(HashMap<String, String>);

/// What a server answered.
pub struct Page {
    pub status: u16,
    location: Option<String>,
    pub body: String,
}

impl Browser {
    /// Signs in as `who` at the page that a client sent us to, or says no (`None`). Tells where the provider sends us back to.
    pub fn sign_in(&mut self, url: &str, who: Option<&str>) -> String {
        let origin = url.split('/').take(3).collect::<Vec<_>>().join("/");
        let (mut at, mut form) = (url.to_owned(), None);
        for _ in 0..20 {
            let method = if form.is_some() { "POST" } else { "GET" };
            let page = self.ask(method, &at, form.take().as_deref());
            if let Some(next) = page.location {
                at = if next.starts_with('/') { format!("{origin}{next}") } else { next };
                if !at.starts_with(&format!("{origin}/")) {
                    return at;
                }
                continue;
            }
            assert_eq!(page.status, 200, "{at}: {}", page.body);
            match who {
                None => at = format!("{at}/abort"),
                Some(who) if page.body.contains("value=\"login\"") => {
                    form = Some(format!("prompt=login&login={who}&password=x"));
                }
                Some(_) => form = Some("prompt=consent".to_owned()),
            }
        }
        panic!("the provider leads nowhere");
    }

    /// One request.
    pub fn ask(&mut self, method: &str, url: &str, form: Option<&str>) -> Page {
        let rest = url.strip_prefix("http://").unwrap();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let cookies: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (form, cookies) = (form.unwrap_or_default(), cookies.join("; "));
        let mut line = TcpStream::connect(host).unwrap();
        let head = format!(
            "{method} /{path} HTTP/1.1\r\nhost: {host}\r\ncookie: {cookies}\r\nconnection: close\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
            form.len()
        );
        line.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        line.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut location = None;
        for line in head.lines() {
            let Some((name, value)) = line.split_once(": ") else { continue };
            match name.to_ascii_lowercase().as_str() {
                "location" => location = Some(value.to_owned()),
                "set-cookie" => {
                    let (name, value) = value.split(';').next().unwrap().split_once('=').unwrap();
                    self.0.insert(name.to_owned(), value.to_owned());
                }
                _ => {}
            }
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Page { status, location, body: body.to_owned() }
    }
}

/// A `protem serve` with a bundle of the test's own.
pub struct Served {
    process: Kept,
    home: tempfile::TempDir,
    port: u16,
}

impl Served {
    /// With the repository's bundle, each file as `edit` makes it.
    pub fn start(edit: impl Fn(&str, &str) -> String) -> Self {
        let edited = crate::broker::policies()
            .iter()
            .map(|(name, text)| {
                let text = edit(name, std::str::from_utf8(text).unwrap());
                (name.clone(), text.into_bytes().into())
            })
            .collect::<Vec<_>>();
        Self::with(&edited.into())
    }

    /// With a bundle.
    pub fn with(files: &Files) -> Self {
        Self::with_settings(files, "")
    }

    /// With a bundle, and more settings.
    pub fn with_settings(files: &Files, more: &str) -> Self {
        Self::with_broker(files, "", more)
    }

    /// The same, and more of `[broker]`.
    pub fn with_broker(files: &Files, broker: &str, more: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        for (name, text) in files.iter() {
            let path = home.path().join("policies").join(&**name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let port = free_port();
        let settings = format!(
            "[broker]\nlisten = \"127.0.0.1:{port}\"\n{broker}\n[fetch]\nallow_private = [\"127.0.0.0/8\"]\n{more}"
        );
        fs::write(home.path().join("protem.toml"), settings).unwrap();
        let log = fs::File::create(home.path().join("serve.log")).unwrap();
        let mut command = program(home.path());
        command.arg("serve").stdout(log.try_clone().unwrap()).stderr(log);
        let served = Self { process: Kept(command.spawn().unwrap()), home, port };
        until("the broker serves", || served.log().contains("serving"));
        served
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Kept {
        &mut self.process
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("serve.log")).unwrap_or_default()
    }

    /// The program, pointed at this broker.
    pub fn cli(&self) -> Command {
        let mut command = program(self.home.path());
        command.env("PROTEM_BROKER", self.url());
        command
    }

    /// Runs a command line to its end.
    pub fn run(&self, line: &[&str]) -> Ran {
        ran(self.cli().args(line).output().unwrap())
    }

    /// `protem auth login`, up to the page that it shows.
    pub fn login(&self) -> SigningIn {
        let mut command = self.cli();
        command.args(["auth", "login"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut url = String::new();
        let mut all = String::new();
        while !url.trim().starts_with("http") {
            url.clear();
            assert_ne!(said.read_line(&mut url).unwrap(), 0, "it shows no page: {all}");
            all.push_str(&url);
        }
        SigningIn { process, said, url: url.trim().to_owned() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the broker said:\n{}", self.log());
        }
    }
}

/// A `protem auth login` that waits for its browser.
pub struct SigningIn {
    process: Child,
    said: BufReader<std::process::ChildStderr>,
    pub url: String,
}

impl SigningIn {
    /// What it did, once it has ended.
    pub fn ended(mut self) -> Ran {
        let mut err = String::new();
        self.said.read_to_string(&mut err).unwrap();
        let output = self.process.wait_with_output().unwrap();
        Ran { err, ..ran(output) }
    }
}
