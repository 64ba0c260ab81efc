//! What stands in for the SPIFFE agent in a program that was built without it: it says so.

use http::Uri;
use protem_gate::connect::Dial;
use protem_verify::codes::tool;
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure};
use crate::cli::ways::Agent;
use crate::fetch::web::Web;

/// No agent.
#[derive(Debug)]
pub enum Spiffe {}

impl Spiffe {
    /// Never.
    ///
    /// # Errors
    /// Always.
    pub fn by(_: Agent, _: &Uri, _: Option<String>, _: Web) -> Result<Self, Failure> {
        let what = "this protem was built without the Workload API of SPIFFE";
        let help = "take one with the cargo feature `spiffe`, or have an agent write files for `--cert` and `--key`";
        Err(Failure::of(Exit::Usage, tool::USAGE, what).helps(help))
    }

    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub async fn token(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        match *self {}
    }

    /// Never called.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        match *self {}
    }

    /// Never called.
    #[must_use]
    pub fn dial(&self, _: Dial) -> Dial {
        match *self {}
    }

    /// Never called.
    #[must_use]
    pub fn ails(&self) -> Option<String> {
        match *self {}
    }

    /// Never called.
    #[must_use]
    pub fn source(&self) -> String {
        match *self {}
    }
}
