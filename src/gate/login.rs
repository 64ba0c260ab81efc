//! How a gateway proves to its broker who it is.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

/// A caller token that may be sent; it never prints.
#[derive(Clone)]
pub struct CallerToken(String);

/// Gives a fresh caller token for each connect: a stream ends when its token expires.
pub trait Login: Send + Sync + 'static {
    /// A token that the broker's bundle maps to this gateway.
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<CallerToken, LoginFailed>> + Send + '_>>;
}

/// There is no token to be had now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway cannot sign in: {0}")]
pub struct LoginFailed(pub String);

impl CallerToken {
    /// Takes a compact JWT.
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(token)
    }

    /// The token, to be put on the wire and nowhere else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for CallerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallerToken(…)")
    }
}

/// Signs in with what a file holds at each connect: a projected service-account token, or a JWT-SVID that a helper keeps fresh.
#[derive(Clone, Debug)]
pub struct TokenFile(pub PathBuf);

impl Login for TokenFile {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<CallerToken, LoginFailed>> + Send + '_>> {
        Box::pin(async {
            let read = tokio::fs::read_to_string(&self.0).await;
            let text = read.map_err(|why| LoginFailed(format!("`{}`: {why}", self.0.display())))?;
            match text.trim() {
                "" => Err(LoginFailed(format!("`{}` is empty", self.0.display()))),
                token => Ok(CallerToken::new(token.to_owned())),
            }
        })
    }
}
