//! Which of the ways to say who one is counts: an explicit flag, then what is nearest to the workload.

use std::path::PathBuf;

use protem_verify::codes::tool;
use zeroize::Zeroizing;

use crate::cli::args::{Global, Svid};
use crate::cli::exit::{Exit, Failure};

/// What flags, environment and settings say about who the caller is.
#[derive(Default)]
pub struct Given {
    /// A token file, and how it was named.
    pub file: Option<(PathBuf, From)>,
    /// `--as`, and how it was given.
    pub act_as: Option<(String, From)>,
    /// A certificate with its key, and how it was named.
    pub cert: Option<((PathBuf, PathBuf), From)>,
    /// The variables with which GitHub Actions lets a job fetch id tokens.
    pub github: Option<GitHubVars>,
    /// The id token that a GitLab job was started with.
    pub id_token: Option<Zeroizing<String>>,
    /// The SPIFFE agent, and how it was named.
    pub spiffe: Option<(Agent, From)>,
    /// Whether `protem auth login` keeps a sign-in at this broker.
    pub signed_in: bool,
}

/// How something was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// On the command line.
    Flag,
    /// In the environment.
    Environment,
    /// In a settings file.
    Settings,
}

/// GitHub's own variables: where a job fetches an id token, and the secret that lets it.
#[derive(Clone)]
pub struct GitHubVars {
    /// `ACTIONS_ID_TOKEN_REQUEST_URL`.
    pub url: String,
    /// `ACTIONS_ID_TOKEN_REQUEST_TOKEN`.
    pub secret: Zeroizing<String>,
}

/// A SPIFFE agent, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Where its Workload API listens.
    pub socket: String,
    /// Which kind of SVID; none: as the broker's address wants it.
    pub kind: Option<Svid>,
    /// Which of several.
    pub hint: Option<String>,
    /// What the broker's certificate must name, if not its address.
    pub broker_id: Option<String>,
}

impl Agent {
    /// As flags and environment say. A program that was built without SPIFFE knows it by flag only, to say so.
    #[must_use]
    pub fn given(global: &Global, env: &dyn Fn(&str) -> Option<String>) -> Option<(Self, From)> {
        let how = if global.typed.spiffe_socket { From::Flag } else { From::Environment };
        let standard = || env(SPIFFE_VAR).filter(|_| cfg!(feature = "spiffe"));
        let agent = |socket| Self {
            socket,
            kind: global.svid,
            hint: global.svid_hint.clone(),
            broker_id: global.broker_id.clone(),
        };
        global.spiffe_socket.clone().or_else(standard).map(|socket| (agent(socket), how))
    }
}

/// The one way that counts.
pub enum Way {
    /// A file with a token.
    File(PathBuf),
    /// The certificate that the connection is opened with; its file, and that of its key.
    Certificate(PathBuf, PathBuf),
    /// An id token that GitHub Actions gives its job.
    GitHub(GitHubVars),
    /// The id token that a GitLab job was started with.
    IdToken(Zeroizing<String>),
    /// An SVID of the SPIFFE agent on this machine.
    Spiffe(Agent),
    /// The sign-in that `protem auth login` keeps.
    SignedIn,
    /// The development key, as this name.
    As(String),
    /// Nothing says it.
    Nothing,
}

/// The variable in which a CI system hands its job an id token, as GitLab does: a file would outlive the job.
pub const ID_TOKEN_VAR: &str = "PROTEM_ID_TOKEN";

/// The variable that SPIFFE itself has for an agent's address (SPIFFE Workload Endpoint §4).
const SPIFFE_VAR: &str = "SPIFFE_ENDPOINT_SOCKET";

impl Given {
    /// What the environment's variables of CI systems say.
    #[must_use]
    pub fn of_ci(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let github = || {
            let url = env("ACTIONS_ID_TOKEN_REQUEST_URL")?;
            let secret = Zeroizing::new(env("ACTIONS_ID_TOKEN_REQUEST_TOKEN")?);
            Some(GitHubVars { url, secret })
        };
        let id_token = env(ID_TOKEN_VAR).map(Zeroizing::new);
        Self { github: github(), id_token, ..Self::default() }
    }

    /// The way that counts. An explicit flag wins; then a token file, a certificate, what the CI system gives, the SPIFFE
    /// agent, a person's sign-in, and at last `PROTEM_AS`, which is for `protem dev` only.
    ///
    /// # Errors
    /// When two flags say it.
    pub fn way(self) -> Result<Way, Failure> {
        let flag = |from: Option<From>| from == Some(From::Flag);
        let by_file = flag(self.file.as_ref().map(|(_, from)| *from));
        let by_name = flag(self.act_as.as_ref().map(|(_, from)| *from));
        if by_file && by_name {
            let what = "`--as` and `--token-file` are two ways to say who you are";
            return Err(Failure::of(Exit::Usage, tool::USAGE, what).helps("give one of them"));
        }
        let typed_cert = flag(self.cert.as_ref().map(|(_, from)| *from));
        let by_agent = flag(self.spiffe.as_ref().map(|(_, from)| *from));
        if by_agent && (by_file || by_name || typed_cert) {
            let what = "`--spiffe-socket` and another way to say who you are do not go together";
            return Err(Failure::of(Exit::Usage, tool::USAGE, what).helps("give one of them"));
        }
        // What a shell exports is nearer than what a file says.
        let file = self.file.filter(|(_, from)| *from != From::Settings || self.act_as.is_none());
        let file = file.map(|(file, _)| Way::File(file));
        let cert = self.cert.filter(|(_, from)| *from != From::Settings || self.act_as.is_none());
        let cert = cert.map(|((cert, key), _)| Way::Certificate(cert, key));
        let named = self.act_as.map(|(name, _)| Way::As(name));
        let agent = self.spiffe.map(|(agent, _)| Way::Spiffe(agent));
        let found = if by_name {
            named
        } else if typed_cert && !by_file {
            cert
        } else if by_agent {
            agent
        } else {
            file.or(cert)
                .or(self.github.map(Way::GitHub))
                .or(self.id_token.map(Way::IdToken))
                .or(agent)
                .or(self.signed_in.then_some(Way::SignedIn))
                .or(named)
        };
        Ok(found.unwrap_or(Way::Nothing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Agent {
        Agent { socket: "unix:///s".to_owned(), kind: None, hint: None, broker_id: None }
    }

    /// Which ways are there, in words, and which of them counts.
    #[track_caller]
    fn check(there: &str, expect: &str) {
        let has = |word: &str| there.split(' ').any(|known| known == word);
        let from = |what: &str| {
            let known = [
                (format!("--{what}"), From::Flag),
                (format!("${what}"), From::Environment),
                (format!("[{what}]"), From::Settings),
            ];
            known.into_iter().find(|(word, _)| has(word)).map(|(_, from)| from)
        };
        let env = |name: &str| match name {
            "ACTIONS_ID_TOKEN_REQUEST_URL" => has("github").then(|| "https://h".to_owned()),
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN" => has("github").then(|| "s".to_owned()),
            ID_TOKEN_VAR => has("gitlab").then(|| "t".to_owned()),
            _ => None,
        };
        let given = Given {
            file: from("file").map(|from| ("f".into(), from)),
            act_as: from("as").map(|from| ("a".into(), from)),
            cert: from("cert").map(|from| (("c".into(), "k".into()), from)),
            spiffe: from("spiffe").map(|from| (agent(), from)),
            signed_in: has("login"),
            ..Given::of_ci(&env)
        };
        let found = match given.way() {
            Ok(Way::File(_)) => "file",
            Ok(Way::Certificate(..)) => "cert",
            Ok(Way::GitHub(_)) => "github",
            Ok(Way::IdToken(_)) => "gitlab",
            Ok(Way::Spiffe(_)) => "spiffe",
            Ok(Way::SignedIn) => "login",
            Ok(Way::As(_)) => "as",
            Ok(Way::Nothing) => "nothing",
            Err(failure) => return assert_eq!((failure.code.as_str(), "two"), ("PT-0719", expect)),
        };
        assert_eq!(found, expect, "{there}");
    }

    #[test]
    fn the_nearest_way_counts() {
        check("$file github gitlab login $as", "file");
        check("[file] github gitlab login", "file");
        check("$file $cert github", "file");
        check("$cert github gitlab login $as", "cert");
        check("[cert] github", "cert");
        check("github gitlab login $as", "github");
        check("github $spiffe login", "github");
        check("gitlab $spiffe login $as", "gitlab");
        check("$cert $spiffe", "cert");
        check("$file $spiffe", "file");
        check("$spiffe login $as", "spiffe");
        check("login $as", "login");
        check("$as", "as");
        check("", "nothing");
    }

    #[test]
    fn an_explicit_flag_wins() {
        check("--as $file github gitlab login", "as");
        check("--as [file] github", "as");
        check("--file $as github gitlab login", "file");
        check("--file --as", "two");
        check("--cert $file github login $as", "cert");
        check("--cert --file", "file");
        check("--spiffe $file $cert github login $as", "spiffe");
        for other in ["--file", "--as", "--cert"] {
            check(&format!("--spiffe {other}"), "two");
            check(&format!("$spiffe {other}"), other.trim_start_matches('-'));
        }
        check("--cert --as", "as");
        check("[cert] $as", "as");
        check("[file] $as", "as");
        check("[file] $as github", "github");
    }
}
