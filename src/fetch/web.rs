//! Small JSON of web servers, in time, and never in the clear beyond loopback.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde_json::Value;

use crate::fetch::client::{Body, Fetcher, Limits};
use crate::fetch::network::Network;

/// A client for servers that the user, the broker or its bundle names.
#[derive(Clone, Debug)]
pub struct Web(Fetcher);

impl Web {
    /// Going everywhere: a company's issuer has a private address. Trusting the CAs of a PEM file beside the system's.
    #[must_use]
    pub fn new(ca: Option<PathBuf>) -> Self {
        let everywhere: Vec<Network> =
            ["0.0.0.0/0", "::/0"].iter().filter_map(|all| all.parse().ok()).collect();
        let fetcher = Fetcher::new(everywhere);
        Self(match ca {
            Some(file) => fetcher.with_ca(file),
            None => fetcher,
        })
    }

    /// By a client that goes only where it may.
    #[must_use]
    pub fn by(fetcher: Fetcher) -> Self {
        Self(fetcher)
    }

    /// Fetches JSON.
    ///
    /// # Errors
    /// In words: the server cannot be reached or trusted, or answers something else.
    pub async fn get(&self, url: &str, bearer: Option<&str>) -> Result<Value, String> {
        self.get_within(url, bearer, LIMITS.whole).await
    }

    /// The same, with an answer by then or none.
    ///
    /// # Errors
    /// As [`Web::get`].
    pub async fn get_within(
        &self,
        url: &str,
        bearer: Option<&str>,
        whole: Duration,
    ) -> Result<Value, String> {
        let url = never_in_the_clear(url)?;
        let limits = Limits { whole, ..LIMITS };
        let body = self.0.get(url, limits, bearer).await.map_err(|why| why.to_string())?;
        json(&body).ok_or_else(|| "the answer is no JSON".to_owned())
    }

    /// Sends a form, and reads JSON; an answer that is none reads as null.
    ///
    /// # Errors
    /// In words: the server cannot be reached or trusted.
    pub async fn post(&self, url: &str, form: &[(&str, &str)]) -> Result<(u16, Value), String> {
        let url = never_in_the_clear(url)?;
        let body = self.0.post_form(url, LIMITS, form).await.map_err(|why| why.to_string())?;
        Ok((body.status, json(&body).unwrap_or_default()))
    }
}

/// The same URL, if nothing that is sent to it can be read on the way.
///
/// # Errors
/// When it is neither https nor on loopback.
pub fn never_in_the_clear(url: &str) -> Result<&str, String> {
    let uri: Uri = url.parse().map_err(|_| format!("`{url}` is no URL"))?;
    let host = uri.host().unwrap_or_default();
    match uri.scheme_str() {
        Some("https") => Ok(url),
        Some("http") if is_loopback(host) => Ok(url),
        Some(_) | None => Err(format!("`{url}` is not https")),
    }
}

/// Whether a name or address means this machine.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn json(body: &Body) -> Option<Value> {
    serde_json::from_slice(&body.bytes).ok()
}

/// A person or a job waits: longer than a slow issuer, shorter than patience. Documents and tokens are a few KiB.
const LIMITS: Limits = Limits { whole: Duration::from_secs(10), body: 64 * 1024 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_in_the_clear() {
        for (url, expect) in [
            ("https://idp.example/x", true),
            ("http://127.0.0.1:1/x", true),
            ("http://localhost/x", true),
            ("http://idp.example/x", false),
            ("http://127.0.0.1.evil.example/", false),
            ("ftp://127.0.0.1/", false),
            ("/x", false),
        ] {
            assert_eq!(never_in_the_clear(url).is_ok(), expect, "{url}");
        }
    }
}
