//! Ending access as an operator: `revoke`, with each gateway's receipt, and `quarantine`.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_proto::wire::v1::enforcement::How;
use protem_proto::wire::v1::selector::By;
use protem_verify::codes::tool;

use crate::cli::args::Global;
use crate::cli::args_operate::{QuarantineArgs, RevokeArgs, SelectorArgs};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure, visible};
use crate::cli::output::{Screen, Tint};
use crate::cli::{find, show};

/// `protem revoke`.
///
/// # Errors
/// When it was refused, or the broker was lost before it was durable.
pub async fn revoke(global: &Global, args: &RevokeArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let by = by(&client, &args.selector).await?;
    let again = ask_again(&by);
    let mut receipts = Receipts::of(&by);
    let request = v1::RevokeRequest {
        selector: Some(v1::Selector { by: Some(by) }),
        note: args.note.clone(),
        wait: Some(show::to_wire(args.wait)).filter(|_| !args.wait.is_zero()),
    };
    let answers = client.governance().revoke(request).await;
    let mut answers = answers.map_err(|status| client.failure(&status))?.into_inner();
    let mut last: Option<v1::RevokeResponse> = None;
    let mut redraw = tokio::time::interval(REDRAW);
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer,
            _ = redraw.tick(), if screen.live && !screen.json => {
                receipts.draw(&screen, last.as_ref());
                continue;
            }
        };
        match answer {
            Ok(Some(answer)) => {
                if screen.json {
                    screen.json("RevokeResponse", &answer, true)?;
                } else {
                    receipts.show(&screen, &answer, last.is_none());
                }
                last = Some(answer);
            }
            Ok(None) => break,
            // Durable already: what is lost is only the sight of the receipts.
            Err(status) if last.is_some() => {
                screen.say(format!("  receipts can no longer be followed: {}", status.message()));
                break;
            }
            Err(status) => return Err(client.failure(&status)),
        }
    }
    screen.clear();
    if !screen.json {
        receipts.conclude(&screen, last.as_ref());
        again.into_iter().for_each(|line| screen.say(screen.tint(Tint::Dim, &line)));
    }
    Ok(Exit::Done)
}

/// How often the line of those that are waited for is drawn anew: as fast as one can read.
const REDRAW: Duration = Duration::from_millis(100);
/// Gateways named in that line.
const NAMED_MAX: usize = 4;

/// What has been shown of the gateways' receipts.
#[derive(Default)]
struct Receipts {
    shown: BTreeSet<(String, String, String)>,
    durable: Option<Duration>,
    /// Whether a token was revoked: of that the broker tells nothing, as it may be anybody's.
    token: bool,
    /// Whether a key was: its grants go on.
    key: bool,
}

impl Receipts {
    fn of(by: &By) -> Self {
        let (token, key) = (matches!(by, By::Token(_)), matches!(by, By::KeyId(_)));
        Self { token, key, ..Self::default() }
    }

    fn show(&mut self, screen: &Screen, answer: &v1::RevokeResponse, first: bool) {
        screen.clear();
        if first {
            self.durable = Some(SystemClock.boot());
            screen.print(self.began(answer));
        }
        for receipt in answer.enforcement.iter().filter(|receipt| receipt.how() != How::Waiting) {
            let (gateway, instance) = (receipt.gateway.clone(), receipt.instance.clone());
            if self.shown.insert((gateway, instance, receipt.process.clone())) {
                screen.print(show::receipt(screen, receipt));
            }
        }
        self.draw(screen, Some(answer));
    }

    /// What is durable now.
    fn began(&self, answer: &v1::RevokeResponse) -> String {
        let (ended, seq) = (answer.grants_ended, answer.seq);
        let durable = format!("revoked; durable as entry {seq}");
        match ended {
            _ if self.token => {
                format!("if the token still counted, it does no more since entry {seq}")
            }
            _ if self.key => durable,
            0 => format!("{durable}, no live grant was like that"),
            1 => format!("{durable}, 1 grant ended"),
            ended => format!("{durable}, {ended} grants ended"),
        }
    }

    /// Who is waited for, and for how long already.
    fn draw(&self, screen: &Screen, last: Option<&v1::RevokeResponse>) {
        let enforcement = last.map(|last| last.enforcement.as_slice()).unwrap_or_default();
        let since = self.durable.map_or(Duration::ZERO, |at| SystemClock.boot().saturating_sub(at));
        if let Some(line) = waiting(enforcement, since) {
            screen.draw(&line);
        }
    }

    fn conclude(&self, screen: &Screen, last: Option<&v1::RevokeResponse>) {
        let Some(last) = last.filter(|_| !self.token) else { return };
        for receipt in last.enforcement.iter().filter(|receipt| receipt.how() == How::Waiting) {
            screen.print(show::receipt(screen, receipt));
        }
        if last.enforced_everywhere {
            screen.print(screen.tint(Tint::Good, "enforced everywhere"));
        } else if last.enforcement.is_empty() {
            screen.print("no gateway has told this broker yet; each refuses it within its bound");
        } else {
            screen.print("not confirmed everywhere yet; a silent gateway closes within its bound");
        }
    }
}

fn waiting(enforcement: &[v1::Enforcement], since: Duration) -> Option<String> {
    let waiting = enforcement.iter().filter(|receipt| receipt.how() == How::Waiting);
    let mut names: Vec<String> = waiting.map(|receipt| visible(&receipt.gateway)).collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    if names.is_empty() {
        return None;
    }
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("  {} waiting for {}{more}", show::length(since), names.join(", ")))
}

/// The selector that arguments name.
async fn by(client: &Client, args: &SelectorArgs) -> Result<By, Failure> {
    if let Some(part) = &args.grant {
        return Ok(By::Grant(find::grant(client, part).await?));
    }
    if args.token_stdin {
        return Ok(By::Token(token_of_stdin()?));
    }
    let named = [
        args.task.clone().map(By::Task),
        args.identity.clone().map(By::Identity),
        args.resource.clone().map(By::Resource),
        args.scope.clone().map(By::Scope),
        args.owner.clone().map(By::Owner),
        args.key_id.clone().map(By::KeyId),
        args.everything.then_some(By::Everything(true)),
    ];
    named.into_iter().flatten().next().ok_or_else(|| {
        Failure::of(Exit::Usage, tool::USAGE, "nothing says what to revoke").helps(
            "give one of --grant, --task, --identity, --resource, --scope, --owner, --key-id",
        )
    })
}

/// A leaked token; more than this is something else.
const TOKEN_MAX: u64 = 16 << 10;

fn token_of_stdin() -> Result<String, Failure> {
    let mut token = String::new();
    let read = std::io::stdin().take(TOKEN_MAX).read_to_string(&mut token);
    read.map_err(|why| Failure::file(std::path::Path::new("standard input"), &why))?;
    credential(&token)
}

/// A text that can be a credential: three parts of base64url. The broker says yes to any, whatever it was.
fn credential(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    let part = |part: &str| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !part.is_empty() && part.bytes().all(letter)
    };
    let what = match text {
        "" => "there is no token on standard input",
        text if text.split('.').count() == 3 && text.split('.').all(part) => {
            return Ok(text.to_owned());
        }
        _ => "what is on standard input is no credential",
    };
    Err(Failure::of(Exit::Usage, tool::USAGE, what)
        .because("a credential is three parts of base64url with a dot between them")
        .helps("pipe it in: protem revoke --token-stdin --note … < token"))
}

/// Whether those whose access ended could simply ask again, and what would stop that.
fn ask_again(by: &By) -> Option<String> {
    let stop = |name: &str| format!("`protem quarantine {name} --note …` stops that");
    match by {
        By::Identity(name) => Some(format!("  {name} may simply ask again; {}", stop(name))),
        By::Task(task) => {
            let name = task.split_once('#').map_or(task.as_str(), |(name, _)| name);
            Some(format!("  {name} may ask again under another task; {}", stop(name)))
        }
        By::Grant(_) => Some(format!("  its identity may simply ask again; {}", stop("IDENTITY"))),
        By::Owner(owner) => {
            Some(format!("  the identities of {owner} may simply ask again; {}", stop("IDENTITY")))
        }
        By::Resource(_) | By::Scope(_) => Some(
            "  whoever policy permits may simply ask again; change the bundle to stop that".into(),
        ),
        By::KeyId(_) => Some("  no grant ended; holders renew under another key".into()),
        By::Everything(_) => Some(
            "  whoever policy permits may simply ask again; stop the broker to stop that".into(),
        ),
        By::Token(_) => Some(
            "  the answer is the same for every token; `protem grants` tells whoever may look"
                .into(),
        ),
    }
}

/// `protem quarantine IDENTITY`, and `--lift`.
///
/// # Errors
/// When it was refused.
pub async fn quarantine(global: &Global, args: &QuarantineArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let request = v1::SetQuarantineRequest {
        identity: args.identity.clone(),
        quarantined: !args.lift,
        note: args.note.clone(),
    };
    let answer = client.governance().set_quarantine(request).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    if screen.json {
        screen.json("SetQuarantineResponse", &answer, false)?;
    } else if args.lift {
        screen.print(format!("{} may ask for access again (entry {})", args.identity, answer.seq));
    } else {
        let seq = answer.seq;
        screen
            .print(format!("{}: all access ended, none given from entry {seq} on", args.identity));
        let lift = format!("`protem quarantine {} --lift --note …` ends it", args.identity);
        screen.say(screen.tint(Tint::Dim, &format!("  {lift}")));
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_waited_for_fit_in_a_line() {
        let one = |name: &str, how: How| v1::Enforcement {
            gateway: name.into(),
            how: how.into(),
            ..v1::Enforcement::default()
        };
        let ms = Duration::from_millis(1_200);
        let two = [one("a", How::Waiting), one("b", How::Acknowledged), one("c", How::Waiting)];
        assert_eq!(waiting(&two, ms).as_deref(), Some("  1.2 s waiting for a, c"));
        assert_eq!(waiting(&two[1..2], ms), None);
        let many = ["a", "b", "c", "d", "e", "f"].map(|name| one(name, How::Waiting));
        let line = waiting(&many, ms).unwrap();
        assert_eq!(line, "  1.2 s waiting for a, b, c, d and 2 more");
    }

    #[test]
    fn a_revoked_identity_may_ask_again_and_we_say_so() {
        let said = ask_again(&By::Task("payments/agent#t1".into())).unwrap();
        assert!(said.contains("payments/agent may ask again"), "{said}");
        assert!(said.contains("protem quarantine payments/agent"), "{said}");
    }

    #[test]
    fn a_token_tells_nothing_and_nothing_is_made_up_of_it() {
        let answer = v1::RevokeResponse { seq: 7, ..v1::RevokeResponse::default() };
        let began = |by: By, ended| {
            let answer = v1::RevokeResponse { grants_ended: ended, ..answer.clone() };
            Receipts::of(&by).began(&answer)
        };
        let said = began(By::Token("t".into()), 0);
        assert_eq!(said, "if the token still counted, it does no more since entry 7");
        assert_eq!(began(By::KeyId("k".into()), 0), "revoked; durable as entry 7");
        let identity = || By::Identity("payments/agent".into());
        assert!(began(identity(), 0).ends_with("no live grant was like that"));
        assert!(began(identity(), 1).ends_with("1 grant ended"));
        assert!(began(identity(), 2).ends_with("2 grants ended"));
        for text in ["", "junk", "a.b", "a.b.c.d", "a..c", "a.b.c d", "Bearer a.b.c"] {
            assert_eq!(credential(text).map_err(|bad| bad.exit), Err(Exit::Usage), "{text}");
        }
        assert_eq!(credential(" eyJ0.eyJp_-.c2ln\n").unwrap(), "eyJ0.eyJp_-.c2ln");
    }
}
