//! Tokens exactly as Kubernetes, GitHub and GitLab make them, on the very bundle that docs/operating.md tells to write.

use std::path::Path;
use std::sync::Arc;

use protem::config;
use protem::policy::bundle::{Bundle, Files, Load};
use protem_clock::clock::{Clock, SystemClock};
use protem_proto::wire::v1;
use serde_json::{Value, json};
use tonic::Code;

use crate::broker::{TestBroker, Wish, policies, reason};
use crate::foreign::Foreign;

/// What the page says: for each section, its files and their text.
fn snippets() -> Vec<(String, String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut found = Vec::new();
    for section in page.split("\n### ").skip(1) {
        let (name, rest) = section.split_once('\n').unwrap();
        let rest = rest.split("\n## ").next().unwrap();
        for block in rest.split("```toml\n# ").skip(1) {
            let (file, text) = block.split_once('\n').unwrap();
            let text = text.split("```").next().unwrap();
            found.push((name.to_owned(), file.to_owned(), text.to_owned()));
        }
    }
    found
}

/// The repository's bundle with what a section adds. The example's own GitHub stands aside for the page's. With `keys`, its
/// keys are a file of the bundle.
fn bundle(section: &str, keys: Option<&Foreign>) -> Files {
    let mut files: Vec<(Arc<str>, Arc<[u8]>)> = policies().to_vec();
    for (name, text) in &mut files {
        let mut read = String::from_utf8(text.to_vec()).unwrap();
        if &**name == "issuers.toml" {
            read = read.replace(
                "https://token.actions.githubusercontent.com",
                "https://elsewhere.example",
            );
        }
        for (_, _, more) in
            snippets().iter().filter(|(of, file, _)| of == section && *file == **name)
        {
            let more = match keys {
                Some(_) => more.replace("\naudience", "\njwks = \"file:keys.json\"\naudience"),
                None => more.clone(),
            };
            read = format!("{read}\n{more}");
        }
        *text = read.into_bytes().into();
    }
    if let Some(keys) = keys {
        files.push(("keys.json".into(), keys.jwks().into_bytes().into()));
    }
    files.sort();
    files.into()
}

#[test]
fn every_snippet_of_the_page_is_a_good_bundle_or_good_settings() {
    let mut sections: Vec<String> = snippets().into_iter().map(|(section, ..)| section).collect();
    sections.dedup();
    for section in ["Kubernetes", "GitHub Actions", "GitLab", "Any OIDC issuer"] {
        assert!(sections.iter().any(|known| known == section), "{section}");
        let loaded = Bundle::load(bundle(section, None), Load::Activate, false);
        let loaded = loaded.unwrap_or_else(|findings| panic!("{section}: {findings:?}"));
        assert!(
            loaded.warnings().iter().all(|finding| !finding.message.contains("uid")),
            "{section}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let mut settings = 0;
    for (section, _, text) in snippets().iter().filter(|(_, file, _)| file == "protem.toml") {
        let file = folder.path().join("protem.toml");
        std::fs::write(&file, text).unwrap();
        config::read(Some(&file)).unwrap_or_else(|why| panic!("{section}: {why}"));
        settings += 1;
    }
    assert!(settings > 0);
}

/// Who the broker of a section's bundle takes a token's holder for.
async fn who(section: &str, header: &Value, tokens: &[(Value, Result<&str, &str>)]) {
    let foreign = Foreign::new();
    let bundle = Some(bundle(section, Some(&foreign)));
    let broker = TestBroker::with(Wish { bundle, ..Wish::default() }).await;
    for (claims, expect) in tokens {
        let token = foreign.token_with(header, "RS256", claims);
        let answer = broker.clients(Some(token)).access.who_am_i(v1::WhoAmIRequest {}).await;
        match (answer.map(tonic::Response::into_inner), expect) {
            (Ok(who), Ok(says)) => {
                assert_eq!(who.identity, "payments/agent", "{}", who.why_not);
                assert!(who.login.contains(says), "{says} in {}", who.login);
                assert!(who.expires.is_some() && !who.audience.is_empty());
                assert!(
                    !who.claims.is_empty() && !who.claims.contains_key("jti"),
                    "{:?}",
                    who.claims
                );
            }
            (Ok(who), Err(says)) => {
                assert_eq!(who.identity, "");
                assert!(who.why_not.contains(says), "{says} in {}", who.why_not);
                assert!(who.login.is_empty() && who.claims.contains_key("jti"), "{:?}", who.claims);
            }
            (Err(status), Err(says)) => {
                assert_eq!(status.code(), Code::Unauthenticated);
                let found = format!("{} {}", reason(&status), status.message());
                assert!(found.contains(says), "{says} in {found}");
            }
            (Err(status), Ok(_)) => panic!("{claims}: {status:?}"),
        }
    }
    broker.stop().await;
}

fn with(claims: &Value, pointer: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    *claims.pointer_mut(pointer).unwrap() = value;
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn projected_tokens_of_kubernetes() {
    let now = SystemClock.unix().as_secs();
    let claims = json!({
        "aud": ["https://protem.shop.example"], "exp": now + 3_600, "iat": now, "nbf": now,
        "iss": "https://kubernetes.default.svc.cluster.local", "jti": "3b2c9a50-57b3-4a1b-bd1c-6a5dc1f0a3cf",
        "kubernetes.io": {
            "namespace": "payments",
            "node": {"name": "node-1", "uid": "6c2a3a1e-7f6b-4df8-9d0a-5f5f5f5f5f5f"},
            "pod": {"name": "agent-7d4f9c-x2x9p", "uid": "d0c1f1de-2c7c-4c53-a4b4-0a0a0a0a0a0a"},
            "serviceaccount": {"name": "agent", "uid": "5f4f2f6a-8a5b-4f0e-9d53-0b4b8f5d2f11"},
            "warnafter": now + 3_607,
        },
        "sub": "system:serviceaccount:payments:agent",
    });
    let uid = "/kubernetes.io/serviceaccount/uid";
    let header = json!({"alg": "RS256", "kid": "RS256"});
    let tokens = [
        (claims.clone(), Ok("\"kubernetes.io/serviceaccount/uid\" = \"5f4f2f6a")),
        // The same name, made again.
        (
            with(&claims, uid, "00000000-8a5b-4f0e-9d53-0b4b8f5d2f11".into()),
            Err("`kubernetes.io/serviceaccount/uid` is `00000000"),
        ),
        (
            with(&claims, "/kubernetes.io/namespace", "shop".into()),
            Err("`kubernetes.io/namespace` is `shop`, not `payments`"),
        ),
        (
            with(&claims, "/kubernetes.io", json!("payments")),
            Err("it has no claim `kubernetes.io/"),
        ),
        (
            with(&claims, "/aud", json!(["https://kubernetes.default.svc.cluster.local"])),
            Err(
                "PT-0607 the caller token is for `https://kubernetes.default.svc.cluster.local`, and this broker wants `https://protem.shop.example`",
            ),
        ),
    ];
    who("Kubernetes", &header, &tokens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn id_tokens_of_github_actions() {
    let now = SystemClock.unix().as_secs();
    let claims = json!({
        "jti": "6f4762ed-0758-4ccb-808d-ee3af5d723a8", "sub": "repo:octo-org/octo-repo:environment:prod",
        "environment": "prod", "aud": "https://protem.shop.example", "ref": "refs/heads/main",
        "sha": "1dc1eb1f8d3d8e8f6fdd7d9c4c6d8f6a0b6f3d0e", "repository": "octo-org/octo-repo",
        "repository_owner": "octo-org", "actor_id": "12", "repository_visibility": "private", "repository_id": "74",
        "repository_owner_id": "65", "run_id": "1234567890", "run_number": "10", "run_attempt": "2",
        "runner_environment": "github-hosted", "actor": "alice-gh", "workflow": "deploy", "head_ref": "", "base_ref": "",
        "event_name": "workflow_dispatch", "ref_type": "branch", "ref_protected": "false",
        "job_workflow_ref": "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main",
        "iss": "https://token.actions.githubusercontent.com", "nbf": now, "exp": now + 300, "iat": now,
    });
    let header =
        json!({"typ": "JWT", "alg": "RS256", "x5t": "eBZ_cn3sXYAd0ch4THBKHIgOwOE", "kid": "RS256"});
    let tokens = [
        (claims.clone(), Ok("repository_id = \"74\"")),
        (with(&claims, "/repository_id", "740".into()), Err("its `repository_id` is `740`")),
        (
            with(&claims, "/repository_owner_id", "6".into()),
            Err("its `repository_owner_id` is `6`"),
        ),
        (with(&claims, "/environment", "dev".into()), Err("`environment` is `dev`, not `prod`")),
        // What a job gets that names no audience.
        (with(&claims, "/aud", "https://github.com/octo-org".into()), Err("PT-0607")),
        // An immutable subject, which says nothing that counts.
        (
            with(&claims, "/sub", "repo:octo-org@65/octo-repo@74:environment:prod".into()),
            Ok("repository_id"),
        ),
    ];
    who("GitHub Actions", &header, &tokens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn id_tokens_of_gitlab() {
    let now = SystemClock.unix().as_secs();
    let claims = json!({
        "namespace_id": "72", "namespace_path": "my-group", "project_id": "20", "project_path": "my-group/my-project",
        "user_id": "1", "user_login": "sample-user", "user_email": "sample-user@example.com",
        "user_access_level": "developer", "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
        "pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch",
        "ref_path": "refs/heads/main", "ref_protected": "true", "groups_direct": ["my-group", "other"],
        "environment": "prod", "environment_protected": "false", "runner_id": 1, "runner_environment": "self-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "project_visibility": "public",
        "ci_config_ref_uri": "gitlab.com/my-group/my-project//.gitlab-ci.yml@refs/heads/main",
        "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
        "iss": "https://gitlab.com", "iat": now, "nbf": now - 5, "exp": now + 3_600,
        "sub": "project_path:my-group/my-project:ref_type:branch:ref:main", "aud": "https://protem.shop.example",
    });
    let header = json!({"kid": "RS256", "typ": "JWT", "alg": "RS256"});
    let tokens = [
        (claims.clone(), Ok("ref_protected = \"true\"")),
        // A flag that is a flag reads the same.
        (with(&claims, "/ref_protected", true.into()), Ok("project_id = \"20\"")),
        (
            with(&claims, "/ref_protected", "false".into()),
            Err("`ref_protected` is `false`, not `true`"),
        ),
        (with(&claims, "/project_id", "21".into()), Err("its `project_id` is `21`")),
        (with(&claims, "/namespace_id", "73".into()), Err("its `namespace_id` is `73`")),
    ];
    who("GitLab", &header, &tokens).await;
}

/// Any issuer: a list matches when it contains the value, and a person's issuer never makes a workload.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_any_issuer() {
    let now = SystemClock.unix().as_secs();
    let claims = json!({
        "iss": "https://idp.batch.example/realms/jobs", "sub": "b7c9a1f0", "aud": ["account", "https://protem.shop.example"],
        "exp": now + 60, "iat": now, "roles": ["settlements", "reports"], "jti": "1",
    });
    let header = json!({"typ": "at+jwt", "alg": "RS256", "kid": "RS256"});
    let slash = "https://idp.batch.example/realms/jobs/";
    let tokens = [
        (claims.clone(), Ok("roles = \"settlements\"")),
        (with(&claims, "/roles", "settlements".into()), Ok("sub = \"b7c9a1f0\"")),
        (
            with(&claims, "/roles", json!(["reports"])),
            Err("`roles` is `reports`, not `settlements`"),
        ),
        (with(&claims, "/roles", json!([])), Err("`roles` is ``, not `settlements`")),
        (with(&claims, "/iss", slash.into()), Err("PT-0604")),
        (
            with(&claims, "/iss", slash.into()),
            Err("did you mean `https://idp.batch.example/realms/jobs`?"),
        ),
        (with(&claims, "/exp", now.into()), Err("PT-0608 the caller token expired at ")),
    ];
    who("Any OIDC issuer", &header, &tokens).await;
}
