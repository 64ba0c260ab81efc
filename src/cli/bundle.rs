//! Working on a bundle: `policy check`, `test`, `explain`, `apply` and `schema`.

use std::collections::HashMap;
use std::path::Path;

use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use protem_verify::codes::tool;
use protem_verify::time::Time;

use crate::cli::args::Global;
use crate::cli::args_operate::{BundleArgs, PolicyCommand};
use crate::cli::ask;
use crate::cli::client::{Client, screen};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Screen, Tint};
use crate::cli::show;
use crate::policy::bundle::{Bundle, Files, Load, read_folder};
use crate::policy::finding::{Finding, Severity};
use crate::policy::rules::SCHEMA;

/// `protem policy …`.
///
/// # Errors
/// When the bundle has errors, or the broker refuses.
pub async fn policy(global: &Global, command: &PolicyCommand) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Check(args) | PolicyCommand::Test(args) => check(&screen(global)?, args),
        PolicyCommand::Schema => {
            screen(global)?.print(SCHEMA.trim_end());
            Ok(Exit::Done)
        }
        PolicyCommand::Explain { what, identity } => {
            let (client, screen) = Client::open(global)?;
            let request = ask::to_request(what);
            ask::explain(&client, &screen, request, identity.clone().unwrap_or_default()).await
        }
        PolicyCommand::Apply { bundle, dry_run, expect } => {
            apply(global, &bundle.folder, *dry_run, expect.clone().unwrap_or_default()).await
        }
    }
}

/// The files of a bundle's folder.
///
/// # Errors
/// When it cannot be read.
pub fn files(folder: &Path) -> Result<Files, Failure> {
    let files = read_folder(folder).map_err(|why| Failure::file(folder, &why))?;
    if files.is_empty() {
        let what = format!("`{}` holds no bundle", folder.display());
        return Err(Failure::of(Exit::Usage, tool::USAGE, what).helps("`protem init` writes one"));
    }
    Ok(files)
}

fn check(screen: &Screen, args: &BundleArgs) -> Result<Exit, Failure> {
    let files = files(&args.folder)?;
    let now = Time::from(SystemClock.unix());
    let (findings, digest) = match Bundle::load(files, Load::Check { now }, false) {
        Ok(bundle) => (bundle.warnings().to_vec(), Some(bundle.digest())),
        Err(findings) => (findings, None),
    };
    if screen.json {
        let list: Vec<serde_json::Value> = findings.iter().map(to_json).collect();
        let digest = digest.map(|digest| digest.to_string());
        let report =
            serde_json::json!({ "ok": digest.is_some(), "digest": digest, "findings": list });
        screen.print(serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        for finding in &findings {
            screen.print(coloured(screen, finding));
        }
        match &digest {
            Some(digest) => {
                screen.print(screen.tint(Tint::Good, &format!("good: bundle {digest}")))
            }
            None => screen.print(screen.tint(Tint::Bad, "refused")),
        }
    }
    Ok(if digest.is_some() { Exit::Done } else { Exit::Failed })
}

fn coloured(screen: &Screen, finding: &Finding) -> String {
    let text = finding.to_string();
    match finding.severity {
        Severity::Error | Severity::Age => screen.tint(Tint::Bad, &text),
        Severity::Warning => text,
    }
}

fn to_json(finding: &Finding) -> serde_json::Value {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Age => "overdue",
        Severity::Warning => "warning",
    };
    serde_json::json!({
        "severity": severity, "code": finding.code.id, "file": &*finding.file,
        "line": finding.line, "column": finding.column, "message": finding.message,
    })
}

async fn apply(
    global: &Global,
    folder: &Path,
    dry_run: bool,
    expect_digest: String,
) -> Result<Exit, Failure> {
    let (client, screen) = Client::open(global)?;
    let files: HashMap<String, Vec<u8>> =
        files(folder)?.iter().map(|(name, content)| (name.to_string(), content.to_vec())).collect();
    let request = v1::ApplyBundleRequest { files, dry_run, expect_digest };
    let answer = client.bundles().apply_bundle(request).await;
    let answer = answer.map_err(|status| client.failure(&status))?.into_inner();
    // A refused bundle has no digest, and nothing changed.
    let end = if answer.digest.is_empty() { Exit::Failed } else { Exit::Done };
    if screen.json {
        screen.json("ApplyBundleResponse", &answer, false)?;
        return Ok(end);
    }
    answer.findings.iter().for_each(|finding| screen.say(format!("  {finding}")));
    if end != Exit::Done {
        screen.print(screen.tint(Tint::Bad, "refused; the bundle in force stays"));
        return Ok(end);
    }
    let total = answer.would_end_total;
    if total > 0 {
        screen.print(show::grants(&answer.would_end));
    }
    let word = if dry_run { "would be in force" } else { "is in force" };
    screen.print(format!("bundle {} {word}; it ends {total} live grants", answer.digest));
    Ok(Exit::Done)
}
