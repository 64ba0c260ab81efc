//! Why nothing was fetched.

use std::net::IpAddr;
use std::time::Duration;

/// Why nothing was fetched. No variant holds anything that the server sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Not a URL that is ever fetched.
    #[error("`{url}` is no URL to fetch: {why}")]
    BadUrl {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Clear text, or a token in clear text, to somewhere else than an address of one's own.
    #[error(
        "`{0}` is plain http, which is only for addresses of `fetch.allow_private`, and with a token only for loopback"
    )]
    Plain(String),
    /// The name has no address.
    #[error("the name `{host}` cannot be resolved: {why}")]
    Unresolved {
        /// The name.
        host: String,
        /// The resolver's words.
        why: String,
    },
    /// The name leads to where strangers must not send us (SSRF).
    #[error(
        "`{host}` is at {address}, a {kind} address; list its network in `fetch.allow_private` if that is meant"
    )]
    Private {
        /// The name.
        host: String,
        /// Where it led.
        address: IpAddr,
        /// Which kind of address that is.
        kind: &'static str,
    },
    /// Nobody answers there.
    #[error("no connection to `{host}`: {why}")]
    Unreachable {
        /// The name.
        host: String,
        /// The system's words.
        why: String,
    },
    /// The server did not prove to be who the URL names.
    #[error("no trusted TLS with `{host}`: {why}")]
    Tls {
        /// The name.
        host: String,
        /// The TLS library's words.
        why: String,
    },
    /// The CA file cannot be used.
    #[error("`{file}` cannot be used as CA: {why}")]
    Ca {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// It took too long.
    #[error("`{host}` took longer than {limit:?} to {step}")]
    Slow {
        /// The name.
        host: String,
        /// What was waited for.
        step: &'static str,
        /// How long.
        limit: Duration,
    },
    /// An answer that sends us elsewhere; it is not followed.
    #[error("`{host}` answered with a redirect ({status}), which is not followed")]
    Redirect {
        /// The name.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// Not 200.
    #[error("`{host}` answered {status}")]
    Status {
        /// The name.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// More than is read.
    #[error("the answer of `{host}` is larger than {limit} bytes")]
    TooLarge {
        /// The name.
        host: String,
        /// How much is read.
        limit: usize,
    },
    /// No HTTP, or it broke off.
    #[error("the answer of `{host}` is broken: {why}")]
    Broken {
        /// The name.
        host: String,
        /// The HTTP library's words.
        why: String,
    },
}
