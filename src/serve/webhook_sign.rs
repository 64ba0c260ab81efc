//! Signs messages as Standard Webhooks says: HMAC-SHA256 over id, time and content, by each secret of a file.

use std::path::Path;

use data_encoding::BASE64;
use ring::hmac;
use zeroize::Zeroizing;

use crate::serve::tls::read_key;

/// The secrets of one webhook: one, or two while it changes.
pub struct Secrets(Vec<hmac::Key>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Reads a file that nobody else can read.
    ///
    /// # Errors
    /// In words that hold nothing of it: it cannot be read, others may read it, or it holds something else.
    pub fn read(file: &Path) -> Result<Self, String> {
        let bad = |why: &str| format!("`{}` {why}", file.display());
        let bytes = read_key(file).map_err(|why| bad(&why))?;
        Self::parse(&bytes).map_err(bad)
    }

    /// Parses `whsec_` and base64, one or two lines.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = str::from_utf8(bytes).map_err(|_| "is no text")?;
        let mut keys = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let digits = line.strip_prefix("whsec_");
            let digits = digits.ok_or("has a line that does not begin with `whsec_`")?;
            let secret = BASE64.decode(digits.as_bytes()).map(Zeroizing::new);
            let secret = secret.map_err(|_| "has a secret that is not base64")?;
            if !SECRET_BYTES.contains(&secret.len()) {
                return Err("has a secret that is not 24 to 64 bytes long");
            }
            keys.push(hmac::Key::new(hmac::HMAC_SHA256, &secret));
        }
        match keys.len() {
            0 => Err("holds no secret"),
            1 | SECRETS_MAX => Ok(Self(keys)),
            _ => Err("holds more than two secrets"),
        }
    }

    /// `webhook-signature`: one `v1,…` for each secret, with a space between. `at`: Unix seconds.
    #[must_use]
    pub fn sign(&self, id: &str, at: u64, content: &[u8]) -> String {
        let one = |key: &hmac::Key| {
            let mut context = hmac::Context::with_key(key);
            context.update(format!("{id}.{at}.").as_bytes());
            context.update(content);
            format!("v1,{}", BASE64.encode(context.sign().as_ref()))
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

/// Standard Webhooks: between 24 and 64 bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The one in use and the one that follows it.
const SECRETS_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's own example.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_specification_s_example_is_signed_as_it_says() {
        let body = br#"{"test": 2432232314}"#;
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330);
        let expect = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(Secrets::parse(SECRET.as_bytes()).unwrap().sign(id, at, body), expect);
        let two = format!("{SECRET}\n\n whsec_{}\n", BASE64.encode(&[7; 32]));
        let signed = Secrets::parse(two.as_bytes()).unwrap().sign(id, at, body);
        let (first, second) = signed.split_once(' ').unwrap();
        assert_eq!(first, expect);
        assert!(second.starts_with("v1,") && second != expect);
    }

    #[test]
    fn only_secrets_are_secrets() {
        let of = |length: usize| format!("whsec_{}", BASE64.encode(&vec![1; length]));
        for (text, good) in [
            (of(24), true),
            (of(64), true),
            (format!("{}\n{}\n", of(24), of(25)), true),
            (of(23), false),
            (of(65), false),
            (String::new(), false),
            ("\n".to_owned(), false),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(), false),
            ("whsec_not base64".to_owned(), false),
            (format!("{}\n{}\n{}", of(24), of(25), of(26)), false),
        ] {
            assert_eq!(Secrets::parse(text.as_bytes()).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn a_secret_prints_nowhere() {
        assert_eq!(format!("{:?}", Secrets::parse(SECRET.as_bytes()).unwrap()), "Secrets(1)");
    }
}
