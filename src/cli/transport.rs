//! What `protem serve` reads for its connections: certificate, key, trust bundles; and what it refuses to serve without.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use protem_clock::clock::SystemClock;
use protem_verify::codes::tool;

use crate::cli::exit::{Exit, Failure};
use crate::config::Settings;
use crate::serve::reload::Files;
use crate::serve::tls::{Tls, TlsFiles};
use crate::serve::trust::Trust;

/// As the settings say.
///
/// # Errors
/// When a file cannot be used, and when settings would have the broker serve in the clear beyond loopback.
pub fn files(settings: &Settings) -> Result<Files, Failure> {
    let tls = &settings.tls;
    match (is_given(&tls.cert), is_given(&tls.key)) {
        (true, true) => {}
        (false, false) if settings.broker.listen.ip().is_loopback() => {
            return Ok(Files { tls: None, trust: trust(settings)? });
        }
        (false, false) => {
            let what = format!("`broker.listen` is {}", settings.broker.listen);
            return Err(Failure::of(Exit::Usage, tool::LOOPBACK_ONLY, what));
        }
        (true, false) => return Err(bad("`tls.cert` is given without `tls.key`".into())),
        (false, true) => return Err(bad("`tls.key` is given without `tls.cert`".into())),
    }
    let trust = trust(settings)?;
    let files = TlsFiles { cert: tls.cert.clone(), key: tls.key.clone(), min: tls.min_version };
    let tls = Tls::load(files, trust.clone(), Arc::new(SystemClock));
    Ok(Files { tls: Some(tls.map_err(|why| bad(why.to_string()))?), trust })
}

fn trust(settings: &Settings) -> Result<Option<Arc<Trust>>, Failure> {
    if settings.spiffe.is_empty() {
        return Ok(None);
    }
    let mut bundles = BTreeMap::new();
    for (domain, settings) in &settings.spiffe {
        if !is_given(&settings.bundle) {
            return Err(bad(format!("the trust domain `{domain}` has no `bundle`")));
        }
        bundles.insert(domain.clone(), settings.bundle.clone());
    }
    Trust::load(bundles).map(Some).map_err(|why| bad(why.to_string()))
}

fn is_given(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

fn bad(what: String) -> Failure {
    Failure::of(Exit::Failed, tool::SETTINGS, what)
}
