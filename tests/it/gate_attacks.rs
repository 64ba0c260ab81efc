//! Attacks on what stands between a proxy and an API, each asked of a real gate with raw bytes and as Envoy asks.

use crate::bundle::{FILES, OPERATOR, WORKERS};
use crate::gate::{Gate, Question, credential};
use crate::process::Broker;

struct Rig {
    broker: Broker,
    gate: Gate,
    token: String,
    grant: String,
}

impl Rig {
    /// A gate that takes nginx's headers, or another proxy's, and a credential that reads orders.
    fn start(proxy: &str) -> Self {
        let broker = Broker::with_bundle(FILES);
        let gate = Gate::start(&broker, &["--proxy", proxy]);
        let (token, grant) = credential(&broker, "t-1", "orders:read");
        let rig = Self { broker, gate, token, grant };
        if proxy == "nginx" {
            assert_eq!(
                rig.gate.nginx("GET", "/v1/orders", &rig.token).status,
                200,
                "the honest call passes"
            );
        }
        rig
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn question(&self) -> Question {
        Question::new("GET", "/v1/orders", &self.token)
    }

    /// What nginx sends beside the caller's headers.
    fn nginx(&self, more: &[(&str, &str)]) -> (u16, String) {
        let own = [("X-Original-Method", "GET"), ("X-Original-URI", "/v1/orders")];
        self.gate.ask(&[&own[..], more].concat()).verdict()
    }
}

fn says(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_multi_value_headers() {
    let rig = Rig::start("nginx");
    let good = rig.bearer();
    let joined = format!("{good},{good}");
    let spaced = format!("{good}, Bearer x.y.z");
    for several in [
        &[("Authorization", good.as_str()), ("Authorization", good.as_str())][..],
        &[("Authorization", good.as_str()), ("authorization", "Bearer x.y.z")],
        &[("Authorization", "Basic eDp5"), ("Authorization", good.as_str())],
        &[("Authorization", joined.as_str())],
        &[("Authorization", spaced.as_str())],
    ] {
        assert_eq!(rig.nginx(several), says(401, "PT-0401"), "{several:?}");
    }
    let mut envoy = rig.gate.envoy().await;
    for raw in [true, false] {
        for second in [good.as_bytes(), b"Bearer x.y.z", b"Basic eDp5", b""] {
            let question = Question { raw, ..rig.question().with("authorization", second) };
            assert_eq!(envoy.ask(&question).await.verdict(), says(401, "PT-0401"), "{raw}");
        }
    }
    // The second one in the form that is not looked at.
    let mut both = rig.question().message();
    let merged = Question { raw: false, ..rig.question() }.message();
    let http = |message: &mut protem_proto::ext_authz::envoy::service::auth::v3::CheckRequest| {
        message.attributes.as_mut().unwrap().request.as_mut().unwrap().http.take().unwrap()
    };
    let headers = http(&mut merged.clone()).headers;
    let mut asked = http(&mut both);
    asked.headers = headers;
    both.attributes.as_mut().unwrap().request.as_mut().unwrap().http = Some(asked);
    assert_eq!(envoy.send(both).await.verdict(), says(401, "PT-0401"));
    // Two of what says what was called: one for us, one for the API.
    let twice = [("X-Original-URI", "/v1/orders/7"), ("Authorization", good.as_str())];
    assert_eq!(rig.nginx(&twice), says(403, "PT-0422"));
    let twice = [("X-Original-Method", "PUT"), ("Authorization", good.as_str())];
    assert_eq!(rig.nginx(&twice), says(403, "PT-0422"));
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_non_utf8_header() {
    let rig = Rig::start("nginx");
    let mut envoy = rig.gate.envoy().await;
    // Elsewhere such bytes are the API's to judge.
    let odd = rig.question().with("cookie", b"\xff\xfe");
    assert_eq!(envoy.ask(&odd).await.verdict(), says(200, ""));
    let in_path = Question { path: b"/v1/orders/\xff".to_vec(), ..rig.question() };
    assert_eq!(envoy.ask(&in_path).await.verdict(), says(403, "PT-0415"));
    let in_method = Question { method: b"GET\xff".to_vec(), ..rig.question() };
    assert_eq!(envoy.ask(&in_method).await.verdict(), says(403, "PT-0414"));
    let alone =
        Question { headers: vec![("authorization", b"Bearer \xff".to_vec())], ..rig.question() };
    assert_eq!(envoy.ask(&alone).await.verdict(), says(401, "PT-0401"));
    let raw = |uri: &[u8], authorization: &[u8], cookie: &[u8]| {
        let parts: [&[u8]; 7] = [
            b"GET /authz/orders-api HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-original-method: GET\r\nx-original-uri: ",
            uri,
            b"\r\nauthorization: ",
            authorization,
            b"\r\ncookie: ",
            cookie,
            b"\r\n\r\n",
        ];
        rig.gate.raw(&parts.concat()).split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let bearer = rig.bearer();
    assert_eq!(raw(b"/v1/orders", bearer.as_bytes(), b"\xff"), "200");
    assert_eq!(raw(b"/v1/orders/\xff", bearer.as_bytes(), b"a"), "403");
    assert_eq!(raw(b"/v1/orders", b"Bearer \xff", b"a"), "401");
}

const SPELLINGS: [&str; 6] = [
    "x-protem-grant",
    "x_protem_identity",
    "x-protem_scope",
    "x.protem.task",
    "x-protem-admin",
    "x_protem-task",
];

#[tokio::test(flavor = "multi_thread")]
async fn attack_spoofed_identity_header_variants() {
    let rig = Rig::start("nginx");
    let good = rig.bearer();
    let mut envoy = rig.gate.envoy().await;
    for name in SPELLINGS {
        for spelled in [name.to_owned(), name.to_uppercase()] {
            let call = [("Authorization", good.as_str()), (spelled.as_str(), "forged")];
            assert_eq!(rig.nginx(&call), says(403, "PT-0423"), "{spelled}");
        }
        let told = envoy.ask(&rig.question().with(name, b"forged")).await;
        assert_eq!(told.verdict(), says(200, ""));
        let (set, remove) = told.changes();
        assert!(!set.values().any(|value| value == "forged"));
        // Each is either written over or named to go.
        let goes = remove.iter().any(|removed| removed == name);
        assert!(goes != set.contains_key(name), "{name}: {set:?} {remove:?}");
        assert!(remove.contains(&"authorization".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_connection_strips_identity() {
    let rig = Rig::start("nginx");
    let good = rig.bearer();
    let mut envoy = rig.gate.envoy().await;
    for value in ["x-protem-grant", "close, X-Protem-Identity", "keep-alive,x_protem_scope"] {
        let told = envoy.ask(&rig.question().with("connection", value.as_bytes())).await;
        let (_, remove) = told.changes();
        assert!(remove.contains(&"connection".to_owned()), "{value}: {remove:?}");
        let question = format!(
            "GET /authz/orders-api HTTP/1.1\r\nhost: x\r\nconnection: close\r\nconnection: {value}\r\n\
             x-original-method: GET\r\nx-original-uri: /v1/orders\r\nauthorization: {good}\r\n\r\n"
        );
        assert!(rig.gate.raw(question.as_bytes()).contains("PT-0423"), "{value}");
    }
    let told = envoy.ask(&rig.question().with("connection", b"keep-alive")).await;
    assert_eq!(told.changes().1, ["authorization"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_forwarded_uri_spoof() {
    let rig = Rig::start("nginx");
    let good = rig.bearer();
    let token = ("Authorization", good.as_str());
    let (method, uri) = (("X-Original-Method", "GET"), ("X-Original-URI", "/v1/orders"));
    let (other_method, other_uri) =
        (("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/v1/orders"));
    for headers in [
        &[token, method, uri, other_uri][..],
        &[token, method, uri, other_method],
        &[token, method, uri, ("X_Forwarded_Uri", "/v1/orders")],
        &[token, other_method, other_uri],
        &[token, method],
        &[token, uri],
        &[token],
        &[token, method, ("X-Original-URI", "")],
        &[token, ("X-Original-Method", ""), uri],
        &[token, method, uri, ("X_Original_URI", "/v1/orders")],
        &[token, method, ("X_Original_URI", "/v1/orders")],
    ] {
        assert_eq!(rig.gate.ask(headers).verdict(), says(403, "PT-0422"), "{headers:?}");
    }
    // The question's own query and path say nothing about the call.
    let asked = rig.gate.ask_at("/authz/orders-api?uri=/v1/orders", &[token, method]);
    assert_eq!(asked.verdict(), says(403, "PT-0422"));
    let caddy = Gate::start(&rig.broker, &["--proxy", "caddy", "--state", "caddy-state"]);
    let honest = [token, other_method, other_uri];
    assert_eq!(caddy.ask(&honest).status, 200);
    for more in [method, uri] {
        let headers = [&honest[..], &[more]].concat();
        assert_eq!(caddy.ask(&headers).verdict(), says(403, "PT-0422"));
    }
    // What Envoy says of the call must be what it shows of it.
    let mut envoy = rig.gate.envoy().await;
    for (name, value) in [(":path", &b"/v1/orders/8"[..]), (":method", b"PUT")] {
        let told = envoy.ask(&rig.question().with(name, value)).await;
        assert_eq!(told.verdict(), says(403, "PT-0422"));
    }
}

const CONFUSING: [&str; 39] = [
    "//v1/orders",
    "/v1//orders",
    "/v1/./orders",
    "/v1/x/../orders",
    "/v1/orders/..",
    "/v1/orders/7/..%2f..%2fadmin",
    "/v1/orders%2f7",
    "/v1/orders%2F7",
    "/v1/orders/%2e%2e/admin",
    "/v1/orders/%2E",
    "/v1/orders/7%5c..",
    "/v1/orders/7\\..\\admin",
    "/v1/orders;a=b",
    "/v1/orders/7;jsessionid=1",
    "/v1/orders%3b",
    "/v1/orders#admin",
    "/v1/orders/7#/../admin",
    "/v1/orders/%00",
    "/v1/orders/%",
    "/v1/orders/%zz",
    "/v1/orders/%252e",
    "/%76%31/orders",
    "/V1/orders",
    "/v1/orders/",
    "http://api.example/v1/orders",
    "//api.example/v1/orders",
    "v1/orders",
    "*",
    "?/v1/orders",
    "/v1/orders /admin",
    "/v1/orders/7%3F",
    "/v1/orders/7%3fa=b",
    "/v1/orders%23admin",
    "/v1/orders/%C0%AE%C0%AE",
    "/v1/orders/%c0%af",
    "/v1/orders/%E0%80%AE",
    "/v1/orders/%ff",
    "/v1/orders/%C3",
    "/v1/orders/%C2%85",
];

#[tokio::test(flavor = "multi_thread")]
async fn attack_path_confusion_corpus() {
    let rig = Rig::start("nginx");
    let good = rig.bearer();
    let mut envoy = rig.gate.envoy().await;
    for path in CONFUSING {
        let reply = rig.gate.nginx("GET", path, &rig.token);
        assert_eq!(reply.status, 403, "{path}: {reply:?}");
        let told = envoy.ask(&Question::new("GET", path, &rig.token)).await;
        assert_eq!(told.verdict(), reply.verdict(), "{path}");
    }
    let empty = envoy.ask(&Question::new("GET", "", &rig.token)).await;
    assert_eq!(empty.verdict().0, 403);
    // A query is the API's: no part of it is a path.
    for path in ["/v1/orders?a=../b//c;d%2f", "/v1/orders/7?", "/v1/orders/a%20b"] {
        assert_eq!(rig.gate.nginx("GET", path, &rig.token).status, 200, "{path}");
        let told = envoy.ask(&Question::new("GET", path, &rig.token)).await;
        assert_eq!(told.verdict().0, 200, "{path}");
    }
    for method in ["get", "GET ", "GET,PUT", "HEAD", "OPTIONS", "CONNECT", "QUERY"] {
        let call = [
            ("X-Original-Method", method),
            ("X-Original-URI", "/v1/orders"),
            ("Authorization", &good),
        ];
        let passes = method == "GET ";
        // HTTP itself takes the blanks around a value away.
        assert_eq!(rig.gate.ask(&call).status == 200, passes, "{method}");
        let told = envoy.ask(&Question::new(method, "/v1/orders", &rig.token)).await;
        assert_eq!(told.verdict(), says(403, "PT-0414"), "{method}");
    }
}

#[test]
fn attack_probe_bypass() {
    let rig = Rig::start("nginx");
    for agent in ["ELB-HealthChecker/2.0", "kube-probe/1.33", "GoogleHC/1.0", "Prometheus/3.0"] {
        for uri in [
            "/v1/orders",
            "/healthz",
            "/livez",
            "/readyz",
            "/ping",
            "/robots.txt",
            "/.well-known/x",
        ] {
            for method in ["GET", "HEAD", "OPTIONS"] {
                let reply = rig.gate.ask(&[
                    ("User-Agent", agent),
                    ("X-Original-Method", method),
                    ("X-Original-URI", uri),
                    ("Origin", "https://app.example"),
                    ("Access-Control-Request-Method", "GET"),
                    ("X-Forwarded-For", "127.0.0.1"),
                ]);
                assert_eq!(reply.verdict(), says(401, "PT-0401"), "{agent} {method} {uri}");
            }
        }
    }
}

#[test]
fn attack_smuggling_via_auth_subrequest() {
    let rig = Rig::start("nginx");
    let hidden = format!(
        "GET /authz/orders-api HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-original-method: GET\r\n\
         x-original-uri: /v1/orders\r\nauthorization: {}\r\n\r\n",
        rig.bearer()
    );
    assert!(rig.gate.raw(hidden.as_bytes()).starts_with("HTTP/1.1 200"));
    let length = hidden.len();
    let head = "POST /authz/orders-api HTTP/1.1\r\nhost: x\r\nx-original-method: GET\r\nx-original-uri: /v1/orders\r\n";
    let chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    for question in [
        // A body is a body, also when nobody reads it.
        format!("{head}content-length: {length}\r\n\r\n{hidden}"),
        format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}"),
        // Two lengths, two readers.
        format!("{head}content-length: {length}\r\ncontent-length: 0\r\n\r\n{hidden}"),
        format!("{head}content-length: 0, {length}\r\n\r\n{hidden}"),
        format!("{head}content-length: +{length}\r\n\r\n{hidden}"),
        format!("{head}transfer-encoding: chunked, identity\r\n\r\n{chunk}"),
        format!("{head}transfer-encoding: \x0bchunked\r\n\r\n{chunk}"),
        // A name that ends where another reader's does not.
        format!("{head}content-length : {length}\r\n\r\n{hidden}"),
        format!("{head}x: a\rcontent-length: {length}\r\n\r\n{hidden}"),
    ] {
        let question = question.replacen("host: x\r\n", "host: x\r\nconnection: close\r\n", 1);
        let answer = rig.gate.raw(question.as_bytes());
        assert!(!answer.contains("HTTP/1.1 200"), "{question}\n{answer}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{question}\n{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_grpc_path_variants_at_the_gate() {
    let catalog = FILES[0].1.replace(
        r#"operations = ["PUT /v1/orders/{id}"]"#,
        r#"operations = ["PUT /v1/orders/{id}", "POST /shop.v1.Orders/Write"]"#,
    );
    let files: Vec<(&str, &str)> = [&[(FILES[0].0, catalog.as_str())], &FILES[1..]].concat();
    let broker = Broker::with_bundle(&files);
    let gate = Gate::start(&broker, &[]);
    let (token, _) = credential(&broker, "t-1", "orders:write");
    let (reader, _) = credential(&broker, "t-2", "orders:read");
    let mut envoy = gate.envoy().await;
    let grpc = |path: &str, token: &str| {
        Question::new("POST", path, token)
            .with("content-type", b"application/grpc")
            .with("te", b"trailers")
    };
    let method = "/shop.v1.Orders/Write";
    assert_eq!(envoy.ask(&grpc(method, &token)).await.verdict(), says(200, ""));
    assert_eq!(envoy.ask(&grpc(method, &reader)).await.verdict(), says(403, "PT-0413"));
    for path in [
        "shop.v1.Orders/Write",
        "//shop.v1.Orders/Write",
        "/shop.v1.Orders//Write",
        "/shop.v1.Orders/Write/",
        "/shop.v1.Orders%2fWrite",
        "/shop.v1.Orders/write",
        "/shop.v1.orders/Write",
        "/shop.v1.Orders/%57rite",
        "/shop.v1.Orders/Write;x",
        "/Orders/Write",
        "/shop.v1.Orders",
        "",
    ] {
        assert_eq!(envoy.ask(&grpc(path, &token)).await.verdict().0, 403, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_reissue_after_block() {
    let rig = Rig::start("nginx");
    let mut envoy = rig.gate.envoy().await;
    rig.broker.run(OPERATOR, &["quarantine", WORKERS[0], "--note", "leaked"]).expect(0);
    // The answer came when every gate had said so.
    assert_eq!(rig.gate.nginx("GET", "/v1/orders", &rig.token).verdict(), says(401, "PT-0410"));
    assert_eq!(envoy.ask(&rig.question()).await.verdict(), says(401, "PT-0410"));
    let again = ["request", "--task", "t-1", "--on", "orders-api", "--scope", "orders:read"];
    for task in ["t-1", "t-2"] {
        let line: Vec<&str> =
            again.iter().map(|word| if *word == "t-1" { task } else { word }).collect();
        assert_ne!(rig.broker.run(WORKERS[0], &line).code, Some(0), "{task}");
    }
    assert!(!rig.grant.is_empty());
}

#[test]
fn attack_revoked_while_the_gate_was_down() {
    let mut rig = Rig::start("nginx");
    rig.gate.process.signal(rustix::process::Signal::KILL);
    let _ = rig.gate.process.0.wait();
    rig.broker.run(OPERATOR, &["revoke", "--grant", &rig.grant, "--note", "over", "--wait", "0s"]);
    let mut command = rig.broker.cli();
    command.args(["gate", "--as", "edge", "-o", "json", "--metrics", "127.0.0.1:0"]);
    command.args(["--listen", "127.0.0.1:0"]);
    let gate = Gate::spawn(command, rig.broker.home().join("second.log"));
    // From its first answer to the one that says why it never will.
    let mut said = Vec::new();
    let end = std::time::Instant::now() + crate::process::PATIENCE;
    while said.last() != Some(&says(401, "PT-0410")) {
        assert!(std::time::Instant::now() < end, "{said:?}");
        said.push(gate.nginx("GET", "/v1/orders", &rig.token).verdict());
    }
    assert!(said.iter().all(|(status, _)| [401, 503].contains(status)), "{said:?}");
}

#[test]
fn attack_every_cut_off_reaches_the_gate() {
    let rig = Rig::start("nginx");
    let ends = |selector: &[&str], task: &str| {
        let (token, grant) = credential(&rig.broker, task, "orders:read");
        assert_eq!(rig.gate.nginx("GET", "/v1/orders", &token).status, 200, "{task}");
        let line = [&["revoke"], selector, &["--note", "over"]].concat();
        let line: Vec<String> = line.iter().map(|word| word.replace("GRANT", &grant)).collect();
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        rig.broker.run(OPERATOR, &line).expect(0);
        assert_eq!(
            rig.gate.nginx("GET", "/v1/orders", &token).verdict(),
            says(401, "PT-0410"),
            "{line:?}"
        );
    };
    let task = format!("{}#of-task", WORKERS[0]);
    ends(&["--grant", "GRANT"], "of-grant");
    ends(&["--task", &task], "of-task");
    ends(&["--identity", WORKERS[0]], "of-identity");
    ends(&["--scope", "orders-api#orders:read"], "of-scope");
    ends(&["--resource", "orders-api"], "of-resource");
    ends(&["--everything"], "of-everything");
    // One that was granted afterwards is not covered by any of them.
    let (token, _) = credential(&rig.broker, "afterwards", "orders:read");
    assert_eq!(rig.gate.nginx("GET", "/v1/orders", &token).status, 200);
}
