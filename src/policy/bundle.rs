//! A bundle in force: one folder's files, checked as a whole, under one digest.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use protem_core::request::{AccessRequest, field};
use protem_core::verdict::{ApproverVerdict, Ruling, Verdict};
use protem_verify::ids::Hash;
use protem_verify::names::{GatewayName, GroupName, IdentityName, ResourceName};
use protem_verify::time::{Staleness, Time};
use sha2::{Digest, Sha256};

use crate::policy::ask::{Action, Ask, Object, Permit, Unknown};
use crate::policy::catalog::{Catalog, Gateway, Identity, Issuer, People};
use crate::policy::finding::Finding;
use crate::policy::login::{Login, NoMatch, Person, Principal};

/// A bundle's files: name inside the folder and content, sorted by name.
pub type Files = Arc<[(Arc<str>, Arc<[u8]>)]>;

/// Why a bundle is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// To look for everything that is wrong with it, also what only age brought by `now`.
    Check {
        /// Today.
        now: Time,
    },
    /// To put it in force, or to start with it: errors refuse it, age does not.
    Activate,
}

/// A checked bundle. Cheap to share behind an `Arc`; nothing in it changes.
#[derive(Debug)]
pub struct Bundle {
    digest: Hash,
    files: Files,
    dev: bool,
    warnings: Vec<Finding>,
    catalog: Catalog,
    identities: BTreeMap<IdentityName, Identity>,
    issuers: BTreeMap<Arc<str>, Issuer>,
    people: People,
}

/// What an approver looks at when they decide a waiting request.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// Who decides.
    pub person: &'a Person,
    /// The waiting request, as narrowed.
    pub request: &'a AccessRequest,
    /// What policy says of it now.
    pub ruling: &'a Ruling,
    /// The person behind the requester.
    pub behind: Option<&'a protem_verify::names::PersonName>,
    /// The digest of what the person saw.
    pub digest: Hash,
    /// When.
    pub now: Time,
}

impl Bundle {
    /// Parses and checks. `dev` adds a login by `protem-dev` for every identity, gateway and person.
    ///
    /// # Errors
    /// Everything that was found, warnings too, when one of them refuses the bundle for this purpose.
    pub fn load(files: Files, purpose: Load, dev: bool) -> Result<Self, Vec<Finding>> {
        let _ = (files, purpose, dev);
        Err(Vec::new())
    }

    /// SHA-256 over names and contents.
    #[must_use]
    pub fn digest(&self) -> Hash {
        self.digest
    }

    /// Its files.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Whether the logins of `protem dev` count.
    #[must_use]
    pub fn dev(&self) -> bool {
        self.dev
    }

    /// What is worth a look; of a check also nothing worse.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// What there is to ask for.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The inventory.
    #[must_use]
    pub fn identities(&self) -> &BTreeMap<IdentityName, Identity> {
        &self.identities
    }

    /// Whose tokens are trusted, by name.
    #[must_use]
    pub fn issuers(&self) -> &BTreeMap<Arc<str>, Issuer> {
        &self.issuers
    }

    /// Groups and persons.
    #[must_use]
    pub fn people(&self) -> &People {
        &self.people
    }

    /// Who enforces.
    #[must_use]
    pub fn gateways(&self) -> &BTreeMap<GatewayName, Gateway> {
        &self.catalog.gateways
    }

    /// Groups, in order.
    pub fn groups(&self) -> impl Iterator<Item = &GroupName> {
        self.people.groups.keys()
    }

    /// Who a verified login is.
    ///
    /// # Errors
    /// When it is nobody's, with the nearest login and the claim that differs.
    pub fn who(&self, login: &Login) -> Result<Principal, NoMatch> {
        let _ = login;
        Err(NoMatch { why_not: String::new() })
    }

    /// What policy says to a request. Total: whatever goes wrong is a deny with a code of its own.
    #[must_use]
    pub fn evaluate(&self, ask: &Ask<'_>) -> Verdict {
        let _ = ask;
        unfinished()
    }

    /// Whether any policy looks at how many grants an identity holds.
    #[must_use]
    pub fn reads_active(&self) -> bool {
        true
    }

    /// What this bundle says of a request that was ruled on before: on its recorded login, region and findings.
    /// `as_issued`: it was granted at once, so only `issue` counts. An emergency is asked as `emergency`.
    #[must_use]
    pub fn reevaluate(
        &self,
        recorded: &Ruling,
        request: &AccessRequest,
        now: Time,
        active: u32,
        as_issued: bool,
    ) -> Verdict {
        let _ = (recorded, request, now, active, as_issued);
        unfinished()
    }

    /// Whether a person may decide a waiting request: policy's `approve` for every scope that needs it, and not their own.
    #[must_use]
    pub fn may_decide(&self, decision: &Decision<'_>) -> ApproverVerdict {
        ApproverVerdict::from_policy(protem_core::verdict::Approver {
            person: decision.person.name.clone(),
            digest: decision.digest,
            bundle: self.digest,
            at: decision.now,
            may: false,
            why_not: String::new(),
            policies: Vec::new(),
        })
    }

    /// Whether a person may do something to something.
    #[must_use]
    pub fn may(&self, person: &Person, action: Action, object: &Object, now: Time) -> Permit {
        let _ = (person, action, object, now);
        Permit { yes: false, policies: Vec::new(), why_not: String::new() }
    }

    /// The identities that `owner` (`group:payments-leads`, `person:alice`) answers for.
    #[must_use]
    pub fn owned_by(&self, owner: &str) -> Vec<IdentityName> {
        let owns = |identity: &&Identity| {
            let (business, technical) = (&identity.owner.business, &identity.owner.technical);
            business.to_string() == owner || technical.to_string() == owner
        };
        self.identities.values().filter(owns).map(|identity| identity.name.clone()).collect()
    }

    /// The part of the catalog that gateways of these resources need, as the feed's `Catalog.json` says it. None: all.
    #[must_use]
    pub fn catalog_json(&self, resources: &[ResourceName]) -> String {
        let _ = resources;
        String::new()
    }

    /// The greatest `fresh` that a credential under this bundle may carry.
    #[must_use]
    pub fn known_max_fresh(&self) -> Staleness {
        let tiers = self.catalog.tiers.values().map(|tier| tier.max_staleness);
        tiers.max().unwrap_or(Staleness(std::time::Duration::from_secs(5)))
    }

    /// Whether the bundle has this resource, and it these scopes.
    ///
    /// # Errors
    /// The first name that it has not, with the nearest that it has.
    pub fn check_names(&self, resource: &str, scopes: &[&str]) -> Result<(), Unknown> {
        let _ = (resource, scopes);
        Ok(())
    }
}

fn unfinished() -> Verdict {
    Verdict::from_policy(Ruling {
        content: Hash::default(),
        effect: protem_core::verdict::Effect::Deny,
        policies: Vec::new(),
        bundle: Hash::default(),
        at: Time::ZERO,
        terms: protem_core::verdict::Terms {
            lifetime: protem_verify::time::Lifetime(std::time::Duration::ZERO),
            credential: protem_verify::time::Lifetime(std::time::Duration::ZERO),
            fresh: Staleness(std::time::Duration::ZERO),
            audience: "".into(),
            claims: Arc::from([]),
            operations: Arc::from([]),
            active_max: 0,
            pending_max: 0,
        },
        limits: Vec::new(),
        findings: Vec::new(),
        code: String::new(),
        remedy: String::new(),
        rule: None,
        active: None,
        input: Arc::from([]),
    })
}

/// SHA-256 over the length-prefixed names and contents, in the order of their names.
#[must_use]
pub fn digest(files: &Files) -> Hash {
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hash = Sha256::new();
    for (name, content) in sorted {
        field(&mut hash, name.as_bytes());
        field(&mut hash, content);
    }
    Hash(hash.finalize().into())
}

/// The bundle in a folder: its `*.toml`, `*.cedar` and `*.json` files, those of subfolders too; hidden ones are left out.
///
/// # Errors
/// When the folder or a file cannot be read, a name is not UTF-8, or it is larger than [`BUNDLE_MAX`].
pub fn read_folder(folder: &Path) -> io::Result<Files> {
    let mut files: Vec<(Arc<str>, Arc<[u8]>)> = Vec::new();
    let mut left = BUNDLE_MAX;
    let mut folders = vec![(folder.to_path_buf(), String::new())];
    while let Some((path, prefix)) = folders.pop() {
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| io::Error::other("a file name is not UTF-8"))?;
            if name.starts_with('.') {
                continue;
            }
            let kind = std::fs::metadata(entry.path())?;
            if kind.is_dir() {
                if folders.len() < FOLDERS_MAX && prefix.matches('/').count() < DEPTH_MAX {
                    folders.push((entry.path(), format!("{prefix}{name}/")));
                }
                continue;
            }
            if ![".toml", ".cedar", ".json"].iter().any(|end| name.ends_with(end)) {
                continue;
            }
            let size = usize::try_from(kind.len()).unwrap_or(usize::MAX);
            left = left.checked_sub(size).ok_or_else(|| {
                io::Error::other(format!("the bundle is larger than {BUNDLE_MAX} bytes"))
            })?;
            let content = std::fs::read(entry.path())?;
            files.push((format!("{prefix}{name}").into(), content.into()));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(files.into())
}

/// The largest bundle in bytes, names and contents: a large company's rules, not a payload (design.md §5).
pub const BUNDLE_MAX: usize = 16 * 1024 * 1024;
/// Identities in one bundle (design.md §5).
pub const IDENTITIES_MAX: usize = 50_000;
/// Folders that wait to be read, and how deep they go: a bundle is `identities/` and `tests/`.
const FOLDERS_MAX: usize = 256;
const DEPTH_MAX: usize = 4;
