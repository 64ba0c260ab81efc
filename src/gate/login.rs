//! How a gateway proves to its broker who it is.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use protem_private::file::{self, Readers};

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

impl TokenFile {
    /// The token in it now.
    ///
    /// # Errors
    /// When it cannot be read, others may read it, or it is empty.
    pub fn read(&self) -> Result<CallerToken, LoginFailed> {
        let file = self.0.display();
        let read = file::read(&self.0, TOKEN_MAX, Readers::Group);
        let text = read.map_err(|why| LoginFailed(format!("`{file}`: {why}")))?;
        match std::str::from_utf8(&text).map(str::trim) {
            Ok("") => Err(LoginFailed(format!("`{file}` is empty"))),
            Ok(token) => Ok(CallerToken::new(token.to_owned())),
            Err(_) => Err(LoginFailed(format!("`{file}` holds no token"))),
        }
    }
}

impl Login for TokenFile {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<CallerToken, LoginFailed>> + Send + '_>> {
        let file = self.clone();
        Box::pin(async move {
            // Files may lie on a network.
            let read = tokio::task::spawn_blocking(move || file.read()).await;
            read.unwrap_or_else(|why| Err(LoginFailed(why.to_string())))
        })
    }
}

/// A caller token in its file: no broker takes a longer one, and this leaves room for white space.
const TOKEN_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_token_that_others_may_read_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let check = async |text: &str, mode: u32| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let token = TokenFile(file.clone()).token().await;
            token.map(|token| token.reveal().to_owned()).map_err(|why| why.to_string())
        };
        assert_eq!(check("a.b.c\n", 0o600).await.unwrap(), "a.b.c");
        assert_eq!(check("a.b.c", 0o640).await.unwrap(), "a.b.c");
        let why = check("a.b.c", 0o644).await.unwrap_err();
        assert!(why.contains("cannot sign in") && why.contains("0644") && !why.contains("a.b.c"));
        assert!(check(" \n", 0o600).await.unwrap_err().contains("empty"));
    }
}
