//! The page's own style sheet, script and mark: built in, and named by what is in them, so that they can be kept for ever.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use sha2::{Digest, Sha256};

/// One of them.
struct Asset {
    /// Its name, with a digest of its content.
    name: String,
    kind: &'static str,
    content: &'static str,
}

/// Where they are served.
#[derive(Clone, Copy, Debug)]
pub struct Assets {
    /// The style sheet.
    pub style: &'static str,
    /// The script.
    pub script: &'static str,
    /// The mark.
    pub mark: &'static str,
}

static STYLE: LazyLock<Asset> =
    LazyLock::new(|| asset("style", "css", "text/css", include_str!("assets/style.css")));
static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| asset("live", "js", "text/javascript", include_str!("assets/live.js")));
static MARK: LazyLock<Asset> =
    LazyLock::new(|| asset("mark", "svg", "image/svg+xml", include_str!("assets/mark.svg")));

fn asset(name: &str, end: &str, kind: &'static str, content: &'static str) -> Asset {
    let digest = HEXLOWER.encode(&Sha256::digest(content.as_bytes()));
    let short: String = digest.chars().take(DIGITS).collect();
    Asset { name: format!("{name}-{short}.{end}"), kind, content }
}

/// Their names, as pages mention them.
#[must_use]
pub fn assets() -> Assets {
    Assets { style: &STYLE.name, script: &SCRIPT.name, mark: &MARK.name }
}

/// Serves one of them. A name of an older version is not there: its page is old, too, and is loaded again.
pub async fn serve(Path(name): Path<String>) -> Response {
    let known: [&Asset; 3] = [&STYLE, &SCRIPT, &MARK];
    match known.into_iter().find(|asset| asset.name == name) {
        Some(asset) => {
            let headers = [
                (CONTENT_TYPE, format!("{}; charset=utf-8", asset.kind)),
                (CACHE_CONTROL, "public, max-age=31536000, immutable".to_owned()),
            ];
            (headers, asset.content).into_response()
        }
        None => (StatusCode::NOT_FOUND, "there is nothing here\n").into_response(),
    }
}

/// Enough of a digest to tell versions apart.
const DIGITS: usize = 12;
