//! The page's cookies: for this host alone, out of any script's reach, and never sent along by another site's form.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// One of the page's cookies.
#[derive(Clone, Debug)]
pub struct Cookie {
    name: String,
    secure: bool,
}

impl Cookie {
    /// Where the page is served over TLS: `__Host-NAME`, which a browser takes from this very host over TLS only, so that no
    /// neighbour's page can plant one (RFC 6265bis §4.1.3.2).
    #[must_use]
    pub fn of_host(name: &str) -> Self {
        Self { name: format!("__Host-{name}"), secure: true }
    }

    /// On loopback without TLS, where not every browser keeps a `Secure` cookie. Ports share cookies, so the name has it.
    #[must_use]
    pub fn of_port(name: &str, port: u16) -> Self {
        Self { name: format!("{name}-{port}"), secure: false }
    }

    /// Its value in a request; none when it is there twice: nobody but somebody else plants a second one.
    #[must_use]
    pub fn read<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(name, _)| name.trim() == self.name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value.trim())
    }

    /// The header that sets it, until the browser closes or for so many seconds. `Lax`: a link from a chat leads to the page
    /// as whom one is signed in; a form of another site comes without it.
    #[must_use]
    pub fn set(&self, value: &str, seconds: Option<u64>) -> HeaderValue {
        let age = seconds.map(|age| format!("; Max-Age={age}")).unwrap_or_default();
        let secure = if self.secure { "; Secure" } else { "" };
        let name = &self.name;
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{age}");
        // Names and values are ours, and plain.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The header that removes it.
    #[must_use]
    pub fn remove(&self) -> HeaderValue {
        self.set("", Some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attack_cookie_planted_beside_ours() {
        let cookie = Cookie::of_host("protem");
        let read = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(COOKIE, line.parse().unwrap());
            }
            cookie.read(&headers).map(str::to_owned)
        };
        assert_eq!(read(&["a=b; __Host-protem=x"]), Some("x".into()));
        assert_eq!(read(&["__Host-protem=x; __Host-protem=y"]), None);
        assert_eq!(read(&["__Host-protem=x", "__Host-protem=x"]), None);
        assert_eq!(read(&["protem=x", "__Host-protem2=x", "__host-protem=x"]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn it_stays_with_this_host_and_away_from_scripts() {
        let set = Cookie::of_host("protem").set("v", None);
        assert_eq!(set, "__Host-protem=v; Path=/; HttpOnly; SameSite=Lax; Secure");
        let set = Cookie::of_port("protem", 7420).set("v", Some(9));
        assert_eq!(set, "protem-7420=v; Path=/; HttpOnly; SameSite=Lax; Max-Age=9");
        assert!(Cookie::of_host("a").remove().to_str().unwrap().ends_with("Max-Age=0"));
    }
}
