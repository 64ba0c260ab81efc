//! One entry for each parser of bytes that others wrote: called by the fuzzer, and by `cargo test` over the kept corpus.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer, SigningKey};
use prost::Message;
use protem::cli::id_token::Said;
use protem::fetch::target::same_origin;
use protem::fetch::web::never_in_the_clear;
use protem::policy::bundle::{Bundle, Files, check, read_folder};
use protem::serve::jwt::{Keys as IssuerKeys, Kind, Token, Trusted};
use protem::serve::oidc::{Answer, Attempt, PeopleIssuer, Provider};
use protem::serve::svid::{Leaf, check_authority};
use protem::serve::trust::Trust;
use protem::serve::{fetched, parse, selector, strict_json};
use protem::{cli, config, engine};
use protem_gate::apply::Follower;
use protem_gate::state::Store;
use protem_gate::svid::certificates;
use protem_gate::workload::Socket;
use protem_proto::wire::v1;
use protem_verify::claims::Claims;
use protem_verify::ids::{GrantId, RequestId};
use protem_verify::json::Json;
use protem_verify::jws::{ACCESS_TOKEN, Jws};
use protem_verify::keys::Keys;
use protem_verify::known::Moment;
use protem_verify::names::{IdentityName, ResourceName, ScopeName, TaskId, Words};
use protem_verify::operation::{Catalog, Operation, canonical};
use protem_verify::spiffe::SpiffeId;
use protem_verify::time::Time;
use protem_verify::view::View;

#[path = "gateway.rs"]
pub mod gateway;

#[path = "gate_targets.rs"]
pub mod gate;

/// A parser: it may refuse, and must neither panic nor take what it would not write.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("credential", credential),
    ("claims", claims),
    ("own_keys", own_keys),
    ("catalog", catalog),
    ("json", json),
    ("names", names),
    ("paths", paths),
    ("feed", feed),
    ("revocations", gateway::revocations),
    ("verdict", gateway::verdict),
    ("caller_token", caller_token),
    ("caller_claims", caller_claims),
    ("issuer_keys", issuer_keys),
    ("discovery", discovery),
    ("svid_leaf", svid_leaf),
    ("trust_bundle", trust_bundle),
    ("agent", agent),
    ("requests", requests),
    ("selectors", selectors),
    ("cursor", cursor),
    ("bundle", bundle),
    ("settings", settings),
    ("audit_export", audit_export),
    ("key_file", key_file),
    ("gateway_state", gateway_state),
    ("sign_in", sign_in),
    ("fetch_target", fetch_target),
    ("gate_settings", gate::settings),
    ("gate_question", gate::question),
    ("gate_forward", gate::forward),
];

fn text(data: &[u8]) -> &str {
    std::str::from_utf8(data).unwrap_or_default()
}

fn credential(data: &[u8]) {
    if let Ok(jws) = Jws::parse(text(data), ACCESS_TOKEN) {
        let _ = Claims::decode(&jws.payload);
    }
}

fn claims(data: &[u8]) {
    let Ok(claims) = Claims::decode(data) else { return };
    // What is taken means one thing, and we would write it the same way.
    let again = Claims::decode(claims.encode().as_bytes());
    assert_eq!(again.as_ref(), Ok(&claims));
}

fn own_keys(data: &[u8]) {
    if let Ok(keys) = Keys::parse(text(data)) {
        assert!(!keys.verify_any(data, &[0; 64]), "nobody signs with zeros");
    }
}

fn catalog(data: &[u8]) {
    if let Ok(catalog) = Catalog::parse(text(data)) {
        let orders = "orders-api".try_into().expect("a name");
        if let Some(resource) = catalog.resource(&orders) {
            let _ = resource.mapped("GET", "/v1/orders");
        }
    }
}

fn json(data: &[u8]) {
    let strict = strict_json::object(data);
    if let Ok(Json::Members(members)) = Json::parse(data) {
        // The stricter of the two takes nothing that the other reads otherwise.
        if let Ok(strict) = strict {
            assert!(members.keys().eq(strict.keys().collect::<std::collections::BTreeSet<_>>()));
        }
    }
}

fn names(data: &[u8]) {
    let text = text(data);
    if let Ok(name) = IdentityName::try_from(text) {
        assert_eq!(name.as_str(), text);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
        assert!(!text.contains('#'), "`identity#task` must stay unambiguous");
    }
    let _ = (ResourceName::try_from(text), ScopeName::try_from(text), TaskId::try_from(text));
    if let Ok(words) = Words::parse("words", text) {
        assert_eq!(words.as_str(), text);
    }
    if let Ok(id) = text.parse::<GrantId>() {
        assert_eq!(id.text(), text);
    }
    let _ = text.parse::<RequestId>();
    let _ = humantime_like(text);
}

fn humantime_like(text: &str) -> Option<Duration> {
    protem::policy::read::duration(text, Duration::ZERO..=Duration::from_secs(86_400)).ok()
}

fn paths(data: &[u8]) {
    let text = text(data);
    if let Some(path) = canonical(text) {
        let odd = ["//", "/../", "/./", "\\", ";", "#", "%00"];
        let hidden = ["%2e", "%2f", "%5c", "%25", "%3b", "%41"];
        assert!(!hidden.iter().any(|hidden| path.to_lowercase().contains(hidden)), "{path}");
        assert!(path.starts_with('/') && !odd.iter().any(|odd| path.contains(odd)), "{path}");
        assert_eq!(canonical(path), Some(path), "what is canonical stays so");
    }
    let _ = Operation::parse(text);
}

fn feed(data: &[u8]) {
    let moment = |secs| Moment { boot: Duration::from_secs(secs), unix: Duration::from_secs(secs) };
    let mut follower = Follower::new(View::new("https://broker.example", None));
    let mut rest = data;
    for step in 0..16 {
        let Ok(message) = v1::SubscribeResponse::decode_length_delimited(&mut rest) else { break };
        follower.pinged(vec![1], moment(step));
        if follower.message(message, moment(step + 1)).is_err() {
            break;
        }
    }
    // No bytes of a stranger make a view that may let anybody in: no checkpoint of theirs is signed.
    assert!(follower.view.known().proven.is_none());
}

const NOW: u64 = 1_800_000_000;
static SIGNER: LazyLock<(SigningKey, Trusted)> = LazyLock::new(|| {
    let key = SigningKey::from_bytes(&[9; 32]);
    let x = BASE64URL_NOPAD.encode(key.verifying_key().as_bytes());
    let jwks = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{x}"}}]}}"#);
    let keys = Arc::new(IssuerKeys::parse(jwks.as_bytes()).expect("a key set"));
    let (issuer, audience) = ("https://idp.example".into(), "protem".into());
    (key, Trusted { issuer, audience, keys, kind: Kind::Oidc })
});

fn caller_token(data: &[u8]) {
    if let Ok(token) = Token::read(text(data)) {
        let _ = (token.issuer(), token.trust_domain());
        assert!(token.verify(&SIGNER.1, Time::from_secs(NOW)).is_err(), "it was never signed");
    }
}

/// The payload of a token that is signed well, so that nothing stops short of the claims.
fn caller_claims(data: &[u8]) {
    let head = BASE64URL_NOPAD.encode(br#"{"alg":"EdDSA","kid":"k"}"#);
    let signed = format!("{head}.{}", BASE64URL_NOPAD.encode(data));
    let signature = BASE64URL_NOPAD.encode(&SIGNER.0.sign(signed.as_bytes()).to_bytes());
    let token = format!("{signed}.{signature}");
    let Ok(token) = Token::read(&token) else { return };
    if let Ok(verified) = token.verify(&SIGNER.1, Time::from_secs(NOW)) {
        assert!(verified.expires > Time::from_secs(NOW), "a good token has an end that is to come");
        assert!(!verified.subject.is_empty());
    }
}

fn issuer_keys(data: &[u8]) {
    let _ = IssuerKeys::published(data);
    if let Ok(keys) = IssuerKeys::parse(data) {
        assert!(!keys.are_none());
    }
}

fn discovery(data: &[u8]) {
    let issuer = "https://idp.example";
    if let Ok(jwks) = fetched::jwks_of(data, "application/json", issuer, issuer) {
        assert!(jwks.starts_with("https://"), "{jwks}");
    }
}

static POLICIES: LazyLock<Files> = LazyLock::new(|| {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.ancestors().map(|at| at.join("policies")).find(|at| at.is_dir());
    read_folder(&folder.expect("the repository's policies")).expect("a bundle")
});

static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| {
    let load = protem::policy::bundle::Load::Activate;
    Bundle::load(Arc::clone(&POLICIES), load, true).expect("the repository's bundle")
});

fn svid_leaf(data: &[u8]) {
    let Ok(leaf) = Leaf::read(data) else {
        let _ = check_authority(data);
        return;
    };
    assert_eq!(SpiffeId::parse(leaf.id.as_str()).as_ref(), Ok(&leaf.id), "one name, one spelling");
    assert!(check_authority(data).is_err(), "a workload vouches for nobody");
}

fn trust_bundle(data: &[u8]) {
    in_folder("trust/bundle", data, |folder| {
        let files = BTreeMap::from([("shop.example".to_owned(), folder.join("bundle"))]);
        let Ok(trust) = Trust::load(files) else { return };
        assert!(!data.trim_ascii().is_empty(), "half a file is no wish to trust nobody");
        assert!(trust.verify(&[], Time::from_secs(NOW)).is_err(), "no chain, nobody");
        assert!(!trust.reload(), "the same bytes are the same bundle");
    });
}

/// What a SPIFFE agent gives, and where it is said to listen.
fn agent(data: &[u8]) {
    let _ = Socket::parse(text(data));
    let Ok(found) = certificates(data, 8) else { return };
    assert_eq!(found.iter().flat_map(|one| one.to_vec()).collect::<Vec<u8>>(), data, "in full");
    assert!(found.len() <= 8 && found.iter().all(|one| one.len() >= 2));
}

fn requests(data: &[u8]) {
    let by = protem_core::request::Workload {
        identity: "payments/agent".try_into().expect("a name"),
        subject: "dev".try_into().expect("a subject"),
    };
    if let Ok(wire) = v1::RequestAccessRequest::decode(data)
        && let Ok(request) = parse::access(by, wire, &BUNDLE)
    {
        assert!(request.scopes.iter().next().is_some(), "an empty list means nothing, never all");
    }
    if let Ok(wire) = v1::HoldTaskRequest::decode(data) {
        let _ = (parse::task_id("task_id", &wire.task_id), parse::lease(wire.lease.as_ref()));
    }
    if let Ok(wire) = v1::RevokeRequest::decode(data) {
        let _ = (parse::required_words("note", &wire.note), parse::wait(wire.wait.as_ref()));
    }
    if let Ok(wire) = v1::ListGrantsRequest::decode(data) {
        let _ = parse::page_size(wire.page_size);
        if !wire.page_token.is_empty() {
            let _ = parse::grant_id("page_token", &wire.page_token);
        }
        wire.since.iter().for_each(|since| drop(parse::moment("since", since)));
    }
    let _ = v1::SubscribeRequest::decode(data);
}

fn selectors(data: &[u8]) {
    let text = text(data);
    if let Ok((identity, task)) = selector::task(text) {
        assert_eq!(format!("{identity}#{task}"), text);
    }
    let _ = (selector::identity("identity", text), parse::digest("digest", text));
    let scopes: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let _ = (parse::scopes(&scopes), parse::plain(text));
}

fn cursor(data: &[u8]) {
    let _ = cli::watch::parse_cursor(text(data));
    let _ = parse::grant_id("page_token", text(data));
}

/// The first byte chooses the file that the rest replaces.
fn bundle(data: &[u8]) {
    let Some((which, text)) = data.split_first() else { return };
    let at = usize::from(*which) % POLICIES.len();
    // The cases of `tests/` cost many evaluations each, so they come along only when one of them is replaced.
    let all = POLICIES.iter().enumerate();
    let kept = all.filter(|(place, (name, _))| *place == at || !name.starts_with("tests/"));
    let files: Vec<_> = kept
        .map(|(place, (name, old))| {
            (Arc::clone(name), if place == at { text.into() } else { Arc::clone(old) })
        })
        .collect();
    let _ = check(files.into(), Time::from_secs(NOW));
}

fn settings(data: &[u8]) {
    let _ = config::from_text(text(data));
}

fn audit_export(data: &[u8]) {
    let _ = cli::audit::verify_export(data);
}

thread_local! {
    static FOLDER: RefCell<tempfile::TempDir> = RefCell::new(tempfile::tempdir().expect("a folder"));
}

/// A folder with one private file of these bytes in it.
fn in_folder(name: &str, data: &[u8], look: impl FnOnce(&std::path::Path)) {
    FOLDER.with_borrow(|folder| {
        let own = folder.path().join(name.split('/').next().unwrap_or_default());
        let _ = std::fs::create_dir(&own);
        let private = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        };
        private(&own, 0o700);
        let file = folder.path().join(name);
        std::fs::write(&file, data).expect("a file");
        private(&file, 0o600);
        look(&own);
    });
}

fn key_file(data: &[u8]) {
    let name = "keys/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.key";
    in_folder(name, data, |folder| drop(engine::keys::KeyRing::open(folder)));
}

/// What an issuer of people publishes and answers, and what an id token says of itself.
fn sign_in(data: &[u8]) {
    let payload = BASE64URL_NOPAD.encode(data);
    for token in [text(data), &format!("e30.{payload}.c2ln")] {
        if let Some(said) = Said::by(token) {
            assert!(said.margin() <= said.life(), "renewed before it was made");
            let _ = said.is_for("protem");
        }
    }
    let issuer = "https://idp.example";
    let Ok(document) = serde_json::from_slice(data) else { return };
    let Ok(provider) = Provider::read(issuer, document) else { return };
    let attempt = Attempt::new("http://127.0.0.1:1/callback".to_owned());
    let people = PeopleIssuer {
        name: "corp".to_owned(),
        issuer: issuer.to_owned(),
        client_id: "protem".to_owned(),
        claims: vec!["groups".to_owned(), "email".to_owned()],
    };
    let url = attempt.url(&provider, &people);
    assert!(never_in_the_clear(url.split('?').next().unwrap_or_default()).is_ok(), "{url}");
    let strange = [("code".to_owned(), "c".to_owned())];
    assert!(
        matches!(attempt.answer(&provider, &strange), Answer::NotOurs),
        "nobody knows its state"
    );
}

fn fetch_target(data: &[u8]) {
    let text = text(data);
    if same_origin(text, text) {
        let (scheme, rest) = text.split_once("://").expect("a scheme");
        assert!(["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()), "{text}");
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        assert!(!authority.is_empty() && !authority.contains('@'), "{text}");
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
        assert!(!text.contains(['#', '\\']), "{text}");
    }
    let (one, other) = text.split_once(' ').unwrap_or((text, text));
    assert_eq!(same_origin(one, other), same_origin(other, one));
}

fn gateway_state(data: &[u8]) {
    in_folder("gate/checkpoint", data, |folder| drop(Store::open(folder)));
}
