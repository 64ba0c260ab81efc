//! `BundleService`: the rules change as a whole, by those who may administer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use protem_core::event::Event;
use protem_core::verdict::Effect;
use protem_proto::wire::v1;
use protem_proto::wire::v1::bundle_service_server::BundleService;
use protem_verify::names::Malformed;
use protem_verify::time::Time;
use tonic::{Request, Response, Status};

use crate::engine::broker::Broker;
use crate::journal::fault::Fault;
use crate::journal::reader::{GrantFilter, Stage};
use crate::journal::records::{GrantRecord, Shown};
use crate::policy::ask::{Action, Object};
use crate::policy::bundle::{Bundle, Files, Load};
use crate::serve::answers::Answers;
use crate::serve::later::not_built;
use crate::serve::limits::{BUNDLE_FILES_MAX, BUNDLE_MAX, PAGE_MAX, WOULD_END_MAX};
use crate::serve::parse;
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::who;

/// The service.
pub struct Bundles {
    /// What answers.
    pub broker: Broker,
}

#[tonic::async_trait]
impl BundleService for Bundles {
    type DiffBundleStream = Answers<v1::DiffBundleResponse>;

    async fn apply_bundle(
        &self,
        request: Request<v1::ApplyBundleRequest>,
    ) -> Result<Response<v1::ApplyBundleResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        let caller = signed_in.caller()?;
        let person = who::person(caller)?;
        who::permit(&self.broker, person, Action::Administer, &[Object::Broker])?;
        let wire = request.into_inner();
        let expect = parse::digest("expect_digest", &wire.expect_digest)?;
        let files = files(wire.files)?;
        let dev = self.broker.dev();
        // Parsing a large bundle takes a while, and none of the time of those who serve others.
        let loaded = tokio::task::spawn_blocking(move || Bundle::load(files, Load::Activate, dev));
        let loaded = loaded.await.map_err(|_| Problem::from(Fault::Stopping))?;
        let bundle = match loaded {
            Ok(bundle) => bundle,
            Err(findings) => {
                // Nothing is activated: the answer has no digest and says what to write instead.
                let findings = findings.iter().map(ToString::to_string).collect();
                let answer = v1::ApplyBundleResponse { findings, ..Default::default() };
                return Ok(Response::new(answer));
            }
        };
        let mut answer = v1::ApplyBundleResponse {
            digest: bundle.digest().to_string(),
            findings: bundle.warnings().iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        if wire.dry_run {
            (answer.would_end, answer.would_end_total) = self.would_end(bundle).await?;
            return Ok(Response::new(answer));
        }
        let actor = caller.actor();
        self.broker.apply_bundle(actor, bundle, expect).await.map_err(Problem::from)?;
        Ok(Response::new(answer))
    }

    async fn get_bundle(
        &self,
        request: Request<v1::GetBundleRequest>,
    ) -> Result<Response<v1::GetBundleResponse>, Status> {
        let signed_in = who::signed_in(&request)?;
        who::may_view(&self.broker, signed_in.caller()?, &[Object::Broker])?;
        let bundle = self.broker.bundle();
        let digest = bundle.digest();
        let activated = self.broker.ask(|state| state.bundle_seq()).await.map_err(Problem::from)?;
        let entry = who::read(&self.broker, move |reader| reader.entry(activated)).await?;
        let entry = entry.filter(|entry| is_activation(entry.what()));
        let files = bundle.files().iter().map(|(name, text)| (name.to_string(), text.to_vec()));
        Ok(Response::new(v1::GetBundleResponse {
            bundle: Some(v1::Bundle {
                digest: digest.to_string(),
                files: files.collect(),
                activated_at: entry.as_ref().map(|entry| show::time(entry.at())),
                activated_by: entry.map_or_else(String::new, |entry| entry.actor().0.to_string()),
            }),
        }))
    }

    async fn diff_bundle(
        &self,
        _: Request<v1::DiffBundleRequest>,
    ) -> Result<Response<Self::DiffBundleStream>, Status> {
        Err(not_built("comparing bundles", "apply with `dry_run` tells which grants end").into())
    }
}

impl Bundles {
    /// The live grants that a candidate would not permit; at most a hundred of them by name.
    async fn would_end(&self, bundle: Bundle) -> Result<(Vec<v1::Grant>, u64), Problem> {
        let (now, bundle) = (self.broker.now(), Arc::new(bundle));
        let states = vec![Stage::Active];
        let mut filter = GrantFilter { states, limit: PAGE_MAX, ..GrantFilter::default() };
        let (mut named, mut total) = (Vec::new(), 0_u64);
        loop {
            // Page by page: whoever goes away stops it.
            let (one, bundle) = (filter.clone(), Arc::clone(&bundle));
            let broker = self.broker.clone();
            let (ends, next) = who::read(&self.broker, move |reader| {
                let mut page = reader.grants(&one)?;
                page.grants.retain(|grant| {
                    let of_use = broker.usage_findings(&grant.request.by.identity, now);
                    !permits(&bundle, grant, now, &of_use)
                });
                Ok((page.grants, page.next))
            })
            .await?;
            total = total.saturating_add(u64::try_from(ends.len()).unwrap_or(u64::MAX));
            let more = WOULD_END_MAX.saturating_sub(named.len());
            named.extend(ends.iter().take(more).map(show::grant));
            let Some(next) = next else { return Ok((named, total)) };
            filter.before = Some(next);
        }
    }
}

fn permits(bundle: &Bundle, grant: &GrantRecord, now: Time, of_use: &[String]) -> bool {
    match &grant.status {
        Shown::Pending { .. } | Shown::Ended { .. } => true,
        Shown::Active { .. } => {
            let issued = grant.ruling.effect == Effect::Issue;
            let verdict =
                bundle.reevaluate(&grant.ruling, &grant.request, now, (1, issued), of_use);
            match verdict.ruling().effect {
                Effect::Issue => true,
                Effect::NeedsApproval => !issued,
                Effect::Deny => false,
            }
        }
    }
}

fn is_activation(event: &Event) -> bool {
    matches!(event, Event::BundleActivated { .. })
}

/// The files by name; a name is a plain relative path.
fn files(wire: HashMap<String, Vec<u8>>) -> Result<Files, Problem> {
    let bad = |why| Problem::from(Malformed { field: "files", why });
    if wire.is_empty() {
        return Err(bad("is empty"));
    }
    if wire.len() > BUNDLE_FILES_MAX {
        return Err(bad("holds more than 4,096 files"));
    }
    let total: usize = wire.iter().map(|(name, text)| name.len().saturating_add(text.len())).sum();
    if total > BUNDLE_MAX {
        return Err(bad("is larger than 16 MiB"));
    }
    let plain = |name: &str| {
        let parts_are_plain =
            name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        parts_are_plain && name.len() <= FILE_NAME_MAX && name.bytes().all(letters)
    };
    if !wire.keys().all(|name| plain(name)) {
        return Err(bad("has a name that is no plain relative path"));
    }
    let sorted: BTreeMap<String, Vec<u8>> = wire.into_iter().collect();
    let files: Vec<(Arc<str>, Arc<[u8]>)> =
        sorted.into_iter().map(|(name, text)| (name.into(), text.into())).collect();
    Ok(files.into())
}

/// The longest name of a bundle's file.
const FILE_NAME_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_plain() {
        let one = |name: &str| files(HashMap::from([(name.to_owned(), vec![])]));
        for good in ["catalog.toml", "identities/a.toml", "tests/x_1-2.toml"] {
            assert!(one(good).is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "../a", "a//b", "a/", "./a", "a\\b", "a b", "ä"] {
            assert!(one(bad).is_err(), "{bad}");
        }
        assert!(files(HashMap::new()).is_err());
    }
}
