//! The page for Prometheus: it tells what happened, a real parser reads it, and nothing that callers send becomes a label.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use protem_gate::meters::{Exposition, Meters};
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use protem_verify::codes;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::broker::{TestBroker, Wish, ask, fresh_task};
use crate::callers::call;

/// A broker with a private listener, and where that is.
async fn started() -> (TestBroker, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let broker = TestBroker::with(Wish { private: Some(listener), ..Wish::default() }).await;
    (broker, at)
}

async fn get(at: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn page(at: &str) -> String {
    let answer = get(at, "/metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    body.to_owned()
}

/// Every series, with its value.
fn series(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, name: &str) -> f64 {
    let of = |all: &BTreeMap<String, f64>| *all.get(name).unwrap_or_else(|| panic!("no {name}"));
    of(after) - of(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_tells_what_happened() {
    let (broker, at) = started().await;
    let before = series(&page(&at).await);
    let mut agent = broker.identity("payments/agent");
    let grant = agent.ask(&fresh_task()).await.unwrap().grant.unwrap();
    let refund =
        v1::RequestAccessRequest { scopes: vec!["orders:refund".into()], ..ask(&fresh_task()) };
    agent.access.request_access(refund).await.unwrap();
    let unknown = v1::RequestAccessRequest { resource: "nothing".into(), ..ask(&fresh_task()) };
    agent.access.request_access(unknown).await.unwrap_err();
    broker.operator().revoke(By::Grant(grant.id)).await.unwrap();
    let after = series(&page(&at).await);
    for (name, by) in [
        ("protem_requests_total{outcome=\"issued\"}", 1.0),
        ("protem_requests_total{outcome=\"waiting\"}", 1.0),
        ("protem_requests_total{outcome=\"denied\"}", 0.0),
        ("protem_credentials_issued_total", 1.0),
        ("protem_ends_total{reason=\"revoked\"}", 1.0),
        ("protem_refusals_total{code=\"PT-0202\"}", 1.0),
        ("protem_refusals_total{code=\"PT-0101\"}", 0.0),
        ("protem_call_duration_seconds_count", 4.0),
        ("protem_requests_pending", 1.0),
    ] {
        assert_eq!(grown(&before, &after, name), by, "{name}");
    }
    assert!(grown(&before, &after, "protem_turn_duration_seconds_count") >= 3.0);
    assert!(grown(&before, &after, "protem_journal_entries") >= 3.0);
    assert!(after["protem_journal_size_bytes"] > 10_000.0);
    assert!(after["protem_signing_key_age_seconds{purpose=\"credential\"}"] >= 0.0);
    assert_eq!(after["protem_ready"], 1.0);
    assert_eq!(after["protem_gateways{state=\"never\"}"], 1.0);
    assert!(get(&at, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get(&at, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&at, "/else").await.starts_with("HTTP/1.1 404"));
    // The public port shows none of it.
    let open = get(&format!("127.0.0.1:{}", broker.port), "/metrics").await;
    assert!(!open.contains("protem_ready"), "{open}");
    broker.stop().await;
}

/// Row 60: whatever callers send, no series is added, and no label holds any of it.
#[tokio::test(flavor = "multi_thread")]
async fn attack_metric_labels() {
    let (broker, at) = started().await;
    let before = series(&page(&at).await);
    let canary = "canary-7d1f";
    for number in 0..40 {
        let name = format!("{canary}/{number}");
        let mut agent = broker.identity("payments/agent");
        let request = v1::RequestAccessRequest {
            task: Some(v1::Task { id: name.clone(), kind: canary.into(), url: String::new() }),
            purpose: name.clone(),
            ..ask(&name)
        };
        // Asked faster than it may be, some are refused, which is as good here.
        let _ = agent.access.request_access(request.clone()).await;
        let unknown = v1::RequestAccessRequest { resource: name.clone(), ..request.clone() };
        agent.access.request_access(unknown).await.unwrap_err();
        let unknown = v1::RequestAccessRequest { scopes: vec![name.clone()], ..request };
        agent.access.request_access(unknown).await.unwrap_err();
        // An identity that nobody knows, a method that there is not, and a path of the page's own listener.
        broker.identity(&name).ask(&name).await.unwrap_err();
        call(&broker, &format!("/protem.v1.AccessService/{canary}{number}"), None, &[]).await;
        get(&at, &format!("/metrics/{name}")).await;
        let usage = v1::ReportUsageRequest {
            grant: vec![9; 16],
            operation: format!("GET /{name}"),
            refused: 1,
            refusal: "PT-0413".into(),
            instance: name.clone(),
            report: number + 1,
            ..v1::ReportUsageRequest::default()
        };
        let edge = broker.gateway("edge-eu-1").usage.report_usage(tokio_stream::once(usage)).await;
        assert_eq!(edge.unwrap().into_inner().unknown, 1);
    }
    let text = page(&at).await;
    let after = series(&text);
    assert!(grown(&before, &after, "protem_refusals_total{code=\"PT-0202\"}") >= 1.0);
    assert!(!text.contains(canary), "what callers sent is on the page");
    let names = |all: &BTreeMap<String, f64>| all.keys().cloned().collect::<BTreeSet<_>>();
    let (old, new) = (names(&before), names(&after));
    assert_eq!(
        new.difference(&old).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "series were added"
    );
    // All labels are words of the program: codes, steps of a spread, or words without a separator of names.
    let codes: BTreeSet<&str> = codes::all().iter().map(|code| code.id).collect();
    for name in &new {
        let Some((_, labels)) = name.split_once('{') else { continue };
        let (label, value) = labels.trim_end_matches('}').split_once('=').unwrap();
        let value = value.trim_matches('"');
        let known = match label {
            "code" => codes.contains(value),
            "le" => value == "+Inf" || value.parse::<f64>().is_ok(),
            "outcome" | "reason" | "lane" | "state" | "purpose" => {
                value.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            }
            _ => false,
        };
        assert!(known, "{name}");
    }
    broker.stop().await;
}

/// Names of metrics in a text: `protem_…`, without what OpenMetrics adds to them.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("protem_")).map(family).collect()
}

fn family(name: &str) -> String {
    let ends = ["_total", "_bucket", "_count", "_sum"];
    let end = ends.iter().find_map(|end| name.strip_suffix(end));
    end.unwrap_or(name).to_owned()
}

/// What a gateway shows before its first call.
fn gate_page() -> String {
    Exposition::new(&Meters::default()).text([("UNREADY", None)].into_iter())
}

/// Metrics of a page: from its own `TYPE` lines.
fn shown(page: &str) -> BTreeSet<String> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// All texts under `expr` of a dashboard, however deep.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "expr" => found.push(text.clone()),
                    other => queries(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_and_every_alert_names_a_metric_that_exists_and_all_are_explained() {
    let (broker, at) = started().await;
    let page = page(&at).await + &gate_page();
    let known = shown(&page);
    assert!(known.len() > 25, "{known:?}");
    let dashboard: Value = serde_json::from_str(&read("examples/grafana/protem.json")).unwrap();
    let mut asked = Vec::new();
    queries(&dashboard, &mut asked);
    assert!(asked.len() >= 12, "{asked:?}");
    let alerts = read("examples/prometheus/protem.rules.yml");
    let rules: Vec<&str> = alerts.lines().filter(|line| line.trim().starts_with("expr:")).collect();
    assert!(rules.len() >= 5, "{alerts}");
    for query in asked.iter().map(String::as_str).chain(rules) {
        let names = named(query);
        assert!(!names.is_empty(), "`{query}` asks for nothing of ours");
        let unknown: Vec<_> = names.difference(&known).collect();
        assert!(unknown.is_empty(), "`{query}` names {unknown:?}");
    }
    let explained = named(&read("docs/operating.md"));
    let missing: Vec<_> = known.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/operating.md does not explain {missing:?}");
    // A metric says what it is, and its unit ends its name.
    for name in &known {
        let help = format!("# HELP {name} ");
        assert!(page.lines().any(|line| line.starts_with(&help) && line.len() > help.len() + 9));
        let unit = page.lines().find_map(|line| line.strip_prefix(&format!("# UNIT {name} ")));
        assert!(unit.is_none_or(|unit| name.ends_with(&format!("_{unit}"))), "{name}: {unit:?}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_parser_reads_the_page() {
    let Ok(python) = std::env::var("PROTEM_PYTHON") else {
        assert!(std::env::var("PROTEM_TEST_ALL").is_err(), "PROTEM_PYTHON names no interpreter");
        writeln!(std::io::stderr(), "left out: metrics parser (tests/run runs it)").unwrap();
        return;
    };
    let (broker, at) = started().await;
    broker.identity("payments/agent").ask(&fresh_task()).await.unwrap();
    let page = page(&at).await;
    let script = "import sys\n\
                  from prometheus_client.openmetrics.parser import text_string_to_metric_families\n\
                  families = list(text_string_to_metric_families(sys.stdin.read()))\n\
                  assert all(f.documentation for f in families)\n\
                  print(*sorted(f.name for f in families))";
    for page in [page, gate_page()] {
        parse(&python, script, page).await;
    }
    broker.stop().await;
}

async fn parse(python: &str, script: &'static str, page: String) {
    let (known, python) = (shown(&page), python.to_owned());
    let parsed = tokio::task::spawn_blocking(move || {
        let mut child = Command::new(python)
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    let parsed = parsed.await.unwrap();
    assert!(parsed.status.success(), "{}", String::from_utf8_lossy(&parsed.stderr));
    let names = String::from_utf8(parsed.stdout).unwrap();
    assert_eq!(names.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>(), known);
}
