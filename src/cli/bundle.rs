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
use crate::cli::exit::{Exit, Failure, visible};
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
    let files = read_folder(folder).map_err(|why| {
        let failure = Failure::file(folder, &why);
        if why.kind() != std::io::ErrorKind::NotFound {
            return failure;
        }
        failure.helps("name the bundle's folder, or let `protem init` write one")
    })?;
    if files.is_empty() {
        let what = format!("`{}` holds no bundle", folder.display());
        return Err(Failure::of(Exit::Usage, tool::USAGE, what).helps("`protem init` writes one"));
    }
    Ok(files)
}

fn check(screen: &Screen, args: &BundleArgs) -> Result<Exit, Failure> {
    let files = files(&args.folder)?;
    let now = Time::from(SystemClock.unix());
    let (findings, good) = match Bundle::load(files, Load::Check { now }, false) {
        Ok(bundle) => (bundle.warnings().to_vec(), Some((bundle.digest(), bundle.cases()))),
        Err(findings) => (findings, None),
    };
    if screen.json {
        let list: Vec<serde_json::Value> = findings.iter().map(to_json).collect();
        let digest = good.map(|(digest, _)| digest.to_string());
        let cases = good.map(|(_, cases)| cases);
        let report = serde_json::json!({
            "ok": good.is_some(), "digest": digest, "cases": cases, "findings": list,
        });
        screen.print(serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        for finding in &findings {
            screen.print(coloured(screen, &args.folder, finding));
        }
        screen.print(match good {
            Some((digest, cases)) => {
                let cases = show::count(cases, "case");
                screen.tint(Tint::Good, &format!("good: bundle {digest}, {cases} as expected"))
            }
            None => {
                let bad = findings.iter().filter(|one| one.severity != Severity::Warning).count();
                let bad = show::count(u64::try_from(bad).unwrap_or(u64::MAX), "finding");
                screen.tint(Tint::Bad, &format!("refused: {bad}"))
            }
        });
    }
    Ok(if good.is_some() { Exit::Done } else { Exit::Failed })
}

/// A finding with its file as it is called from here: `bp/catalog.toml:38:25 error …`.
#[must_use]
pub fn in_folder(folder: &Path, finding: &str) -> String {
    match finding.starts_with("bundle: ") {
        true => format!("{}{}", folder.display(), finding.trim_start_matches("bundle")),
        false => folder.join(finding).display().to_string(),
    }
}

fn coloured(screen: &Screen, folder: &Path, finding: &Finding) -> String {
    let text = in_folder(folder, &finding.to_string());
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
    let said = answer.findings.iter().map(|finding| in_folder(folder, finding));
    said.for_each(|finding| screen.say(format!("  {}", visible(&finding))));
    if end != Exit::Done {
        screen.print(screen.tint(Tint::Bad, "refused; the bundle in force stays"));
        return Ok(end);
    }
    if !answer.would_end.is_empty() {
        screen.print(show::grants(&answer.would_end));
    }
    screen.print(applied(&answer, dry_run));
    Ok(Exit::Done)
}

/// What is in force now, or would be. What a bundle ends is known beforehand alone: a live grant is asked about step by step.
fn applied(answer: &v1::ApplyBundleResponse, dry_run: bool) -> String {
    let digest = &answer.digest;
    match dry_run {
        true => {
            let total = show::count(answer.would_end_total, "live grant");
            format!("bundle {digest} would be in force and would end {total}")
        }
        false => format!("bundle {digest} is in force; live grants that it does not allow end now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_the_file_that_was_checked() {
        for (folder, finding, expect) in [
            ("bp", "catalog.toml:3:1 error PT-0301 x", "bp/catalog.toml:3:1 error PT-0301 x"),
            ("/etc/b/", "tests/a.toml error x", "/etc/b/tests/a.toml error x"),
            ("bp", "bundle: error PT-0331 x", "bp: error PT-0331 x"),
        ] {
            assert_eq!(in_folder(Path::new(folder), finding), expect);
        }
    }

    #[test]
    fn what_a_bundle_ends_is_told_of_a_dry_run_alone() {
        let answer = v1::ApplyBundleResponse {
            digest: "ab".into(),
            would_end_total: 1,
            ..v1::ApplyBundleResponse::default()
        };
        assert_eq!(
            applied(&answer, true),
            "bundle ab would be in force and would end 1 live grant"
        );
        let nothing = v1::ApplyBundleResponse { would_end_total: 0, ..answer };
        assert!(!applied(&nothing, false).contains('0'), "{}", applied(&nothing, false));
    }
}
