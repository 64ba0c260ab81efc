//! `protem watch`: the revocation stream, one line for each thing that no longer counts.

use data_encoding::BASE64URL_NOPAD;
use prost::Message;
use protem_clock::clock::{Clock, SystemClock};
use protem_clock::random;
use protem_proto::wire::v1;
use protem_proto::wire::v1::revocation::Target;
use protem_proto::wire::v1::subscribe_request::Message as Ask;
use protem_proto::wire::v1::subscribe_response::Message as Said;
use protem_verify::codes::tool;
use protem_verify::ids::GrantId;
use std::io::Write;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::cli::args::{Global, WatchArgs};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure, visible};
use crate::cli::output::{Screen, Tint, to_json};
use crate::cli::patience::{PAUSE_MAX, repeat, trouble, wait_before};
use crate::cli::show;

/// Follows until the stream ends or the reader has enough.
///
/// # Errors
/// When the broker refuses, or ends the stream.
pub async fn watch(global: &Global, args: &WatchArgs) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let mut cursor = args.after.as_deref().map(parse_cursor).transpose()?;
    // When a stream was last open: the token of a long one expires under it, and the next may come a little late.
    let mut seen: Option<Duration> = None;
    loop {
        let mut opened = false;
        let ended = once(&client, &screen, args, &mut cursor, &mut opened).await;
        let now = SystemClock.boot();
        if opened {
            seen = Some(now);
        }
        let lately = seen.is_some_and(|seen| now.saturating_sub(seen) < TOKEN_LATE);
        match ended {
            Ok(End::Reader) => return Ok(Exit::Done),
            Ok(End::Stream) => screen.say("  the stream ended; following again"),
            Err(status) if status.code() == tonic::Code::Unauthenticated && lately => {
                if opened {
                    screen
                        .say("  the stream ended with its token; following again with a fresh one");
                }
            }
            Err(status) if repeat(&status) && cursor.is_some() => {
                screen.say(format!("  {}; trying again", trouble(&status)));
                let wait = wait_before(&status, Duration::ZERO, PAUSE_MAX).unwrap_or(PAUSE_LONG);
                tokio::time::sleep(wait).await;
            }
            Err(status) => return Err(client.failure(&status)),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The pause when the broker asks for a longer one than others would wait for: who watches has time.
const PAUSE_LONG: Duration = Duration::from_secs(30);
/// How late a fresh token may come after the old one has ended a stream.
pub const TOKEN_LATE: Duration = Duration::from_secs(30);

/// How a stream ended that nothing went wrong with.
enum End {
    /// The broker ended it.
    Stream,
    /// Nobody reads our stdout any more: `protem watch | head` has seen enough.
    Reader,
}

async fn once(
    client: &Client,
    screen: &Screen,
    args: &WatchArgs,
    cursor: &mut Option<v1::Cursor>,
    opened: &mut bool,
) -> Result<End, tonic::Status> {
    let (ask, asked) = mpsc::channel(4);
    let open = v1::Open {
        resources: args.resources.clone(),
        after: cursor.clone(),
        // An observer that resumes has no view of its own to keep whole: it reads on in the journal.
        history: cursor.is_some(),
        expiries: args.expiries,
        version: 1,
        ..v1::Open::default()
    };
    let lost = |_| tonic::Status::unavailable("the stream has ended");
    ask.send(v1::SubscribeRequest { message: Some(Ask::Open(open)) })
        .await
        .map_err(|_| lost(()))?;
    let mut said = client.feed().subscribe(ReceiverStream::new(asked)).await?.into_inner();
    *opened = true;
    let mut every = Duration::from_secs(1);
    let mut ping = tokio::time::interval(every);
    loop {
        tokio::select! {
            message = said.message() => {
                let Some(message) = message? else { return Ok(End::Stream) };
                if screen.json && put(&line(&message)).is_err() {
                    return Ok(End::Reader);
                }
                let Some(message) = message.message else { continue };
                if let Said::Opened(opened) = &message {
                    let asked = show::duration(opened.ping_every.as_ref());
                    if asked >= Duration::from_millis(100) {
                        every = asked;
                        ping = tokio::time::interval(every);
                    }
                }
                keep_cursor(cursor, &message);
                if let Said::Catalog(catalog) = &message {
                    unknown(&args.resources, &catalog.json).iter().for_each(|name| {
                        screen.say(format!("  the bundle has no resource `{name}`: nothing of it can end"));
                    });
                }
                if !screen.json && tell(screen, &message).is_err() {
                    return Ok(End::Reader);
                }
            }
            _ = ping.tick() => {
                let nonce = random::bytes::<16>().to_vec();
                let ping = v1::Ping { nonce, ..v1::Ping::default() };
                let ping = v1::SubscribeRequest { message: Some(Ask::Ping(ping)) };
                ask.send(ping).await.map_err(|_| lost(()))?;
            }
        }
    }
}

/// What was asked for and is no resource of the catalog.
fn unknown(asked: &[String], catalog: &str) -> Vec<String> {
    let catalog: serde_json::Value = serde_json::from_str(catalog).unwrap_or_default();
    let known = catalog.get("resources");
    let missing = |name: &&String| known.is_some_and(|known| known.get(name.as_str()).is_none());
    asked.iter().filter(missing).map(|name| visible(name)).collect()
}

fn keep_cursor(kept: &mut Option<v1::Cursor>, message: &Said) {
    let fresh = match message {
        Said::Batch(batch) => &batch.cursor,
        Said::SnapshotEnd(end) => &end.cursor,
        Said::Checkpoint(checkpoint) => &checkpoint.cursor,
        Said::Opened(_)
        | Said::SnapshotBegin(_)
        | Said::Reset(_)
        | Said::Keys(_)
        | Said::Catalog(_)
        | Said::GoAway(_) => return,
    };
    if fresh.is_some() {
        kept.clone_from(fresh);
    }
}

/// One message as a line of canonical JSON.
fn line(message: &v1::SubscribeResponse) -> String {
    to_json("SubscribeResponse", message).map(|json| json.to_string()).unwrap_or_default()
}

/// Prints data; unlike what ends by itself, a stream must know when its reader has gone.
///
/// # Errors
/// When nobody reads it any more.
pub fn put(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

fn tell(screen: &Screen, message: &Said) -> std::io::Result<()> {
    match message {
        Said::Opened(opened) => {
            screen.say(format!("following {} from entry {}", opened.issuer, opened.head));
        }
        Said::SnapshotBegin(begin) => {
            screen.say(format!("{} revocations count at entry {}", begin.entries, begin.at_seq));
        }
        Said::Batch(batch) => {
            for item in &batch.items {
                put(&revocation(item))?;
            }
            if let Some(cursor) = &batch.cursor {
                let text = BASE64URL_NOPAD.encode(&cursor.encode_to_vec());
                screen.say(screen.tint(Tint::Dim, &format!("  go on with --after {text}")));
            }
        }
        Said::Reset(reset) => screen.say(format!("begins anew: {:?}", reset.cause())),
        Said::GoAway(away) => {
            screen.say(format!("the broker asks to reconnect: {}", visible(&away.reason)))
        }
        Said::SnapshotEnd(_) | Said::Checkpoint(_) | Said::Keys(_) | Said::Catalog(_) => {}
    }
    Ok(())
}

fn revocation(item: &v1::Revocation) -> String {
    let target = match &item.target {
        Some(Target::Grant(bytes)) => match <[u8; 16]>::try_from(bytes.as_slice()) {
            Ok(bytes) => GrantId(bytes).text(),
            Err(_) => "grant ?".to_owned(),
        },
        Some(Target::Identity(name)) => format!("identity {}", visible(name)),
        Some(Target::Task(task)) => format!("task {}", visible(task)),
        Some(Target::Resource(name)) => format!("resource {}", visible(name)),
        Some(Target::Scope(scope)) => format!("scope {}", visible(scope)),
        Some(Target::KeyId(key)) => format!("key {}", visible(key)),
        Some(Target::Everything(_)) | None => "everything".to_owned(),
    };
    let (seq, at) = (item.seq, show::at(item.at.as_ref()));
    format!("{seq:>8}  {at}  {:<14}  {target}", show::reason(item.reason()))
}

/// A place in the feed, as [`watch`] printed it.
///
/// # Errors
/// When it is something else.
pub fn parse_cursor(text: &str) -> Result<v1::Cursor, Failure> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    bytes.and_then(|bytes| v1::Cursor::decode(bytes.as_slice()).ok()).ok_or_else(|| {
        Failure::of(Exit::Usage, tool::USAGE, format!("`{text}` is no cursor"))
            .because("a cursor is a long word that `protem watch` prints after each change")
            .helps("give one as it was printed, or leave `--after` out")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_counts_as_everything() {
        let item = v1::Revocation { seq: 7, target: None, ..v1::Revocation::default() };
        assert!(revocation(&item).ends_with("everything"));
    }

    #[test]
    fn a_resource_that_is_none_is_told() {
        let asked = ["orders-api".to_owned(), "order-api".to_owned()];
        let catalog = "{\"resources\":{\"orders-api\":{}}}";
        assert_eq!(unknown(&asked, catalog), ["order-api"]);
        assert_eq!(unknown(&asked, "{}"), [""; 0]);
    }

    #[test]
    fn cursors_read_back() {
        let cursor = v1::Cursor { seq: 9, ..v1::Cursor::default() };
        let text = BASE64URL_NOPAD.encode(&cursor.encode_to_vec());
        assert_eq!(parse_cursor(&text).unwrap(), cursor);
        assert!(parse_cursor("#").is_err());
    }
}
