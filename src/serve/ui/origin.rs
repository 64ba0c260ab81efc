//! Where the page is served: which `Host` it answers, and whose forms it takes.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Request, Uri};

/// The address that people open the page at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: &'static str,
    /// As a browser's `Host` says it: any of these.
    hosts: Vec<String>,
    /// Of an address that names none: the scheme's own.
    port: u16,
}

impl Origin {
    /// On loopback, at this port, by any of its names.
    #[must_use]
    pub fn loopback(port: u16) -> Self {
        let hosts = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}"));
        Self { scheme: "http", hosts: hosts.to_vec(), port }
    }

    /// At no address: nobody's `Host` is its own.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { scheme: "https", hosts: Vec::new(), port: 0 }
    }

    /// Of a URL.
    ///
    /// # Errors
    /// When it is no `https` URL, nor an `http` one of this machine.
    pub fn of(url: &str) -> Result<Self, String> {
        let bad = || format!("`{url}` is not where a web page can be: https://HOST");
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        let loopback = ["127.0.0.1", "localhost", "[::1]"].contains(&host);
        let (scheme, own) = match uri.scheme_str() {
            Some("https") => ("https", 443),
            Some("http") if loopback => ("http", 80),
            Some(_) | None => return Err(bad()),
        };
        let port = uri.port_u16().unwrap_or(own);
        if scheme == "http" {
            return Ok(Self::loopback(port));
        }
        let host = host.to_ascii_lowercase();
        let host = if port == own { host } else { format!("{host}:{port}") };
        Ok(Self { scheme, hosts: vec![host], port })
    }

    /// Its URL, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        let host = self.hosts.first().map_or("", String::as_str);
        format!("{}://{host}", self.scheme)
    }

    /// Its URL under the one of its names that a browser used.
    #[must_use]
    pub fn url_at(&self, host: &str) -> String {
        format!("{}://{host}", self.scheme)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is served over TLS, by us or by a proxy.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.scheme == "https"
    }

    /// The host that a request names, if it is ours (DNS rebinding). Named in both places, both must be ours.
    #[must_use]
    pub fn own_host<'r, B>(&self, request: &'r Request<B>) -> Option<&'r str> {
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        let mut named = request.headers().get_all(HOST).iter();
        let header = named.next().map(|host| host.to_str().unwrap_or_default());
        let all = authority.into_iter().chain(header);
        let ours = |host: &str| self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host));
        (named.next().is_none() && all.clone().all(ours)).then(|| authority.or(header)).flatten()
    }

    /// Whether a form comes from a page of ours: its browser says so in `Origin`, and does not say otherwise in
    /// `Sec-Fetch-Site`. `host`: the one that the request names.
    #[must_use]
    pub fn sent(&self, headers: &HeaderMap, host: &str) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        let (first, more) = (origins.next(), origins.next());
        let own = format!("{}://{host}", self.scheme);
        let ours = |origin: &http::HeaderValue| {
            origin.to_str().is_ok_and(|origin| origin.eq_ignore_ascii_case(&own))
        };
        let sites = headers.get_all("sec-fetch-site").iter();
        more.is_none() && first.is_some_and(ours) && sites.into_iter().all(|s| s == "same-origin")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/ui/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn addresses_are_those_of_browsers() {
        let of = |url: &str| Origin::of(url).map(|origin| origin.url()).ok();
        assert_eq!(of("https://Protem.shop.example/"), Some("https://protem.shop.example".into()));
        assert_eq!(of("https://protem.example:443"), Some("https://protem.example".into()));
        assert_eq!(of("https://protem.example:7420"), Some("https://protem.example:7420".into()));
        assert_eq!(of("http://127.0.0.1:7420"), Some("http://127.0.0.1:7420".into()));
        for bad in ["http://protem.example", "protem.example", "/x", "ftp://a", ""] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn attack_dns_rebinding_of_the_page() {
        let origin = Origin::of("https://protem.example").unwrap();
        let own = |headers: &[(&str, &str)]| origin.own_host(&request(headers)).is_some();
        assert!(own(&[("host", "protem.example")]));
        assert!(!own(&[("host", "evil.example")]) && !own(&[]));
        assert!(!own(&[("host", "protem.example"), ("host", "evil.example")]));
        assert!(!own(&[("host", "protem.example:81")]));
        let dev = Origin::loopback(7420);
        assert_eq!(dev.own_host(&request(&[("host", "localhost:7420")])), Some("localhost:7420"));
        assert_eq!(dev.own_host(&request(&[("host", "localhost:7421")])), None);
    }

    #[test]
    fn attack_csrf_approve() {
        let origin = Origin::of("https://protem.example").unwrap();
        let sent =
            |headers: &[(&str, &str)]| origin.sent(request(headers).headers(), "protem.example");
        let ours = ("origin", "https://protem.example");
        assert!(sent(&[ours]) && sent(&[ours, ("sec-fetch-site", "same-origin")]));
        assert!(!sent(&[]));
        for foreign in
            ["https://evil.example", "null", "http://protem.example", "https://x.protem.example"]
        {
            assert!(!sent(&[("origin", foreign)]), "{foreign}");
            assert!(!sent(&[ours, ("origin", foreign)]), "{foreign}");
        }
        for site in ["cross-site", "same-site", "none"] {
            assert!(!sent(&[ours, ("sec-fetch-site", site)]), "{site}");
        }
    }
}
