//! A bundle in force: one folder's files, checked as a whole, under one digest.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use protem_core::request::{AccessRequest, field};
use protem_core::verdict::Ruling;
use protem_verify::codes::policy;
use protem_verify::ids::Hash;
use protem_verify::names::{
    GatewayName, GroupName, IdentityName, PersonName, ResourceName, ScopeName,
};
use protem_verify::time::{Lifetime, Staleness, Time};
use sha2::{Digest, Sha256};

use crate::policy::ask::Unknown;
use crate::policy::cases;
use crate::policy::catalog::{Catalog, Gateway, Identity, Issuer, People};
use crate::policy::entities::Store;
use crate::policy::feed;
use crate::policy::finding::{At, Finding, Findings, Severity, Source, nearest};
use crate::policy::lint;
use crate::policy::login::Person;
use crate::policy::parse::parse;
use crate::policy::parse_catalog::FRESH_DEFAULT;
use crate::policy::person;
use crate::policy::raw::Cases;
use crate::policy::rulebook::Rulebook;
use crate::policy::rules;
use crate::policy::who::Logins;

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
    warnings: Vec<Finding>,
    pub(in crate::policy) dev: bool,
    pub(in crate::policy) reads_active: bool,
    pub(in crate::policy) reads_findings: bool,
    pub(in crate::policy) catalog: Catalog,
    pub(in crate::policy) identities: BTreeMap<IdentityName, Identity>,
    /// Whom each owner (`group:payments-leads`, `person:alice`) answers for.
    pub(in crate::policy) owned: BTreeMap<String, Vec<IdentityName>>,
    pub(in crate::policy) issuers: BTreeMap<Arc<str>, Issuer>,
    pub(in crate::policy) people: People,
    pub(in crate::policy) logins: Logins,
    pub(in crate::policy) book: Rulebook,
    pub(in crate::policy) cases: Vec<(Source, Cases)>,
}

/// What an approver looks at when they decide a waiting request.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// Who decides.
    pub person: &'a Person,
    /// The waiting request, as narrowed.
    pub request: &'a AccessRequest,
    /// What policy says of it now, under this bundle.
    pub ruling: &'a Ruling,
    /// How long the grant would last: less than the ruling says when the person shortens it.
    pub lifetime: Lifetime,
    /// The person behind the requester.
    pub behind: Option<&'a PersonName>,
    /// The account they signed in with, as [`Bundle::account`] spells it.
    pub account: &'a str,
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
        let (bundle, findings) = read(files, purpose, dev);
        let found = findings.into_sorted();
        let refuses = |finding: &Finding| match finding.severity {
            Severity::Error => true,
            Severity::Age => matches!(purpose, Load::Check { .. }),
            Severity::Warning => false,
        };
        match bundle {
            Some(bundle) if !found.iter().any(refuses) => Ok(Self { warnings: found, ..bundle }),
            _ => Err(found),
        }
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

    /// What is worth a look; nothing that refuses it.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// How many test cases it has, all of them as expected.
    #[must_use]
    pub fn cases(&self) -> u32 {
        let count = self.cases.iter().map(|(_, cases)| cases.case.len()).sum::<usize>();
        u32::try_from(count).unwrap_or(u32::MAX)
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

    /// The greatest `fresh` that a credential under this bundle may carry.
    #[must_use]
    pub fn known_max_fresh(&self) -> Staleness {
        let tiers = self.catalog.tiers.values().map(|tier| tier.max_staleness);
        tiers.max().unwrap_or(Staleness(FRESH_DEFAULT))
    }

    /// Whether the bundle has this resource, and it these scopes.
    ///
    /// # Errors
    /// The first name that it has not, with the nearest that it has.
    pub fn check_names(&self, resource: &str, scopes: &[&str]) -> Result<(), Unknown> {
        let unknown = |field, name: &str, near: Option<&str>| Unknown {
            field,
            name: name.to_owned(),
            did_you_mean: near.map(str::to_owned),
        };
        let known = self.catalog.resources.iter().find(|(name, _)| name.as_str() == resource);
        let Some((_, known)) = known else {
            let names = self.catalog.resources.keys().map(ResourceName::as_str);
            return Err(unknown("resource", resource, nearest(resource, names)));
        };
        for scope in scopes {
            let names = || known.scopes.keys().map(ScopeName::as_str);
            if !names().any(|name| name == *scope) {
                return Err(unknown("scopes", scope, nearest(scope, names())));
            }
        }
        Ok(())
    }
}

/// Everything that a check of these files finds, by place; for `protem policy check`.
#[must_use]
pub fn check(files: Files, now: Time) -> Vec<Finding> {
    read(files, Load::Check { now }, false).1.into_sorted()
}

fn read(files: Files, purpose: Load, dev: bool) -> (Option<Bundle>, Findings) {
    let mut findings = Findings::default();
    let mut parsed = parse(&files, &mut findings);
    let groups: BTreeSet<GroupName> = parsed.people.groups.keys().cloned().collect();
    let rules = rules::read(&parsed.policies, &groups, &mut findings);
    let logins = Logins::new(&parsed, &mut findings);
    let store = match Store::new(&parsed.catalog, &parsed.identities, &parsed.people) {
        Ok(store) => store,
        Err(why) => {
            findings.error(&At::bundle(), policy::BAD_VALUE, why);
            return (None, findings);
        }
    };
    lint::entities(&rules, &store, &parsed.people, &mut findings);
    if let Load::Check { now } = purpose {
        lint::age(&parsed, now, &mut findings);
    }
    let bundle = Bundle {
        digest: digest(&files),
        files,
        warnings: Vec::new(),
        dev,
        reads_active: rules.iter().any(|rule| rule.mentions("active")),
        reads_findings: rules.iter().any(|rule| rule.is_of_access() && rule.mentions("findings")),
        catalog: std::mem::take(&mut parsed.catalog),
        owned: person::owned(&parsed.identities),
        identities: std::mem::take(&mut parsed.identities),
        issuers: std::mem::take(&mut parsed.issuers),
        people: std::mem::take(&mut parsed.people),
        logins,
        book: Rulebook::new(store, rules),
        cases: std::mem::take(&mut parsed.cases),
    };
    // What follows from a mistake elsewhere would only hide it: these look at a bundle that reads.
    if !findings.failed() {
        lint::administered(&bundle, &mut findings);
        feed::parts(&bundle.catalog, &parsed, &mut findings);
        cases::report(&bundle, &mut findings);
        lint::warnings(&bundle, &parsed, &mut findings);
    }
    (Some(bundle), findings)
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
