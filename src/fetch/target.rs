//! URLs that may be fetched.

use http::uri::Scheme;
use http::{HeaderValue, Uri};

use crate::fetch::error::FetchError;

/// Whether two URLs are of one server: what is sent to the one may be sent to the other (RFC 6454).
#[must_use]
pub fn same_origin(one: &str, other: &str) -> bool {
    let (Ok(one), Ok(other)) = (Target::parse(one), Target::parse(other)) else { return false };
    (one.plain, one.host, one.port) == (other.plain, other.host, other.port)
}

/// The host of a URL that may be fetched, to name it where the rest of it is nobody's business.
#[must_use]
pub fn host(url: &str) -> Option<String> {
    Target::parse(url).ok().map(|to| to.host)
}

/// A URL that may be fetched if its address may.
pub(in crate::fetch) struct Target {
    pub(in crate::fetch) plain: bool,
    /// In lower case, without brackets.
    pub(in crate::fetch) host: String,
    pub(in crate::fetch) port: u16,
    pub(in crate::fetch) authority: HeaderValue,
    pub(in crate::fetch) path: Uri,
}

impl Target {
    pub(in crate::fetch) fn parse(url: &str) -> Result<Self, FetchError> {
        let bad = |why| FetchError::BadUrl { url: short(url), why };
        if url.len() > URL_MAX {
            return Err(bad("it is too long"));
        }
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) || url.contains(['#', '\\']) {
            return Err(bad("it holds a character that does not belong there"));
        }
        let uri: Uri = url.parse().map_err(|_| bad("it cannot be read"))?;
        let plain = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => false,
            Some(scheme) if *scheme == Scheme::HTTP => true,
            Some(_) | None => return Err(bad("it is not https")),
        };
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it holds a user name"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let host = host.to_ascii_lowercase();
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        let port = match authority.as_str().rsplit_once(':') {
            // `Uri` takes a port that is none for an absent one.
            Some((_, port)) if !port.ends_with(']') => port.parse().map_err(|_| bad("its port"))?,
            Some(_) | None => {
                if plain {
                    80
                } else {
                    443
                }
            }
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = path.parse().map_err(|_| bad("its path"))?;
        let name = HeaderValue::from_str(authority.as_str()).map_err(|_| bad("its host"))?;
        Ok(Self { plain, host, port, authority: name, path })
    }
}

fn short(url: &str) -> String {
    url.chars().take(128).flat_map(char::escape_default).collect()
}

/// A URL: longer ones are no issuer's.
const URL_MAX: usize = 2_048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_are_fetched() {
        let parse = |url: &str| Target::parse(url).map(|to| (to.plain, to.host, to.port));
        assert_eq!(parse("https://IdP.example/a?b=c"), Ok((false, "idp.example".into(), 443)));
        assert_eq!(parse("https://[2001:db8::1]:8443"), Ok((false, "2001:db8::1".into(), 8443)));
        assert_eq!(parse("http://127.0.0.1:80/x"), Ok((true, "127.0.0.1".into(), 80)));
        for bad in [
            "",
            "idp.example",
            "/x",
            "file:///etc/passwd",
            "ftp://idp.example",
            "gopher://idp.example",
            "https://",
            "https:///x",
            "https://user@idp.example",
            "https://u:p@idp.example",
            "https://idp.example#x",
            "https://idp.example/ x",
            "https://idp.example\\@evil.example",
            "https://idp.example:",
            "https://idp.example:99999",
            "https://idp.example:a",
            "https://idp.example/\u{e9}",
            &format!("https://idp.example/{}", "a".repeat(3_000)),
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_compared_whole() {
        let issuer = "https://idp.example/tenant";
        assert!(same_origin(issuer, "https://IDP.example:443/keys"));
        for other in [
            "http://idp.example/keys",
            "https://idp.example:8443/keys",
            "https://idp.example.evil/keys",
            "https://keys.idp.example/",
            "idp.example",
        ] {
            assert!(!same_origin(issuer, other), "{other}");
        }
    }
}
