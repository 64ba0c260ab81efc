//! From where a call came and by which name: what an API is told of it is its proxy's word, never the caller's.

use crate::proxies::attacks::{LAST, authorization, refused_or_true, request, tried};
use crate::proxies::grpc::{call, exact};
use crate::proxies::proxy::Kind;
use crate::proxies::stage::{LIST, Trio};

/// The one Host of the examples.
const HOST: &str = "shop.example";
/// What each proxy tells its API, beside the caller's own word in every spelling.
fn told(kind: Kind) -> [(&'static str, &'static [&'static str]); 5] {
    let host: &[&str] = if kind == Kind::Envoy { &[] } else { &[HOST] };
    let real: &[&str] = if kind == Kind::Nginx { &["127.0.0.1"] } else { &[] };
    [
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", &["http"]),
        ("x-real-ip", real),
        ("forwarded", &[]),
    ]
}

/// What callers write there.
const LIES: [(&str, &str); 5] = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Proto", "https"),
    ("X-Real-IP", "6.6.6.6"),
    ("Forwarded", "for=6.6.6.6;host=evil.example;proto=https"),
];

#[test]
fn attack_callers_say_from_where_they_call() {
    let Some(trio) = Trio::shared("forged addresses and hosts") else { return };
    let good = authorization(&trio.reads.token);
    let plain: Vec<String> = LIES.map(|(name, value)| format!("{name}: {value}")).into();
    let mut tries = vec![
        plain.clone(),
        plain.iter().map(|line| line.to_ascii_lowercase()).collect(),
        plain.iter().chain(&plain).cloned().collect(),
        LIES.map(|(name, _)| format!("{name}:")).into(),
    ];
    for (name, value) in LIES.iter().filter(|(name, _)| name.contains('-')) {
        tries.push(vec![format!("{}: {value}", name.replace('-', "_"))]);
        tries.push(vec![format!("{}: {value}", name.replacen('-', "_", 1)), plain[0].clone()]);
        tries.push(vec![format!("Connection: close, {name}"), format!("{name}: {value}")]);
    }
    trio.each(|stage| {
        for (at, lines) in tries.iter().enumerate() {
            let all: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            let ask = request("GET /v1/orders", &[&[good.as_slice()], &all[..], &[LAST]].concat());
            let (status, seen) = tried(stage, &ask);
            let said = format!("{:?} after {lines:?}: {seen:?}", stage.kind);
            assert_eq!(status == 200, !seen.is_empty(), "{status}, {said}");
            // They are no reason to refuse: what is before every proxy writes some of them.
            assert!(status == 200 || at > 3, "{status}, {said}");
            for one in &seen {
                for (name, values) in told(stage.kind) {
                    assert_eq!(one.like(name), values, "{name}, {said}");
                }
            }
        }
        let bearer = format!("Bearer {}", trio.reads.token);
        let lies = LIES.map(|(name, value)| (name, value.to_owned()));
        let headers: Vec<_> = lies.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let headers = [&[("authorization", bearer.as_str())], &headers[..]].concat();
        let said = call(&stage.proxy.grpc(), LIST, &headers).unwrap();
        assert_eq!(said.grpc, Some(0), "{:?}: {said:?}", stage.kind);
        let seen = stage.grpc.taken();
        let [one] = &seen[..] else { panic!("{:?}: {seen:?}", stage.kind) };
        for (name, values) in told(stage.kind) {
            let found: Vec<_> = one.headers.get_all(name).iter().collect();
            assert_eq!(found, values, "{name} at {:?}: {one:?}", stage.kind);
        }
    });
}

/// Row 54: whatever a caller writes as its host, in as many places as there are, the API is told one that is not the caller's.
#[test]
fn attack_authority_and_host_disagree() {
    let Some(trio) = Trio::shared("requests with two hosts") else { return };
    let good = authorization(&trio.reads.token);
    let good = String::from_utf8(good).unwrap();
    let target = ["/v1/orders", "http://evil.example/v1/orders", "http://shop.example/v1/orders"];
    let more = ["https://evil.example/v1/orders", "http://shop.example@evil.example/v1/orders"];
    let hosts: [&[&str]; 9] = [
        &["Host: shop.example"],
        &["Host: evil.example"],
        &["Host: evil.example:8080"],
        &["Host: shop.example", "Host: evil.example"],
        &["Host: evil.example", "Host: shop.example"],
        &["Host: shop.example, evil.example"],
        &["Host: shop.example@evil.example"],
        &["Host:"],
        &[],
    ];
    trio.each(|stage| {
        let plain = request("GET /v1/orders", &[good.as_bytes(), LAST]);
        assert!(refused_or_true(&trio, stage, &plain), "{:?}", stage.kind);
        for target in target.iter().chain(&more) {
            for version in ["HTTP/1.1", "HTTP/1.0"] {
                for lines in hosts {
                    let lines = lines.iter().map(|line| format!("{line}\r\n")).collect::<String>();
                    let ask = format!(
                        "GET {target} {version}\r\n{lines}{good}\r\nConnection: close\r\n\r\n"
                    );
                    let (_, seen) = tried(stage, ask.as_bytes());
                    for one in &seen {
                        let said = format!("{:?} after {ask}: {one:?}", stage.kind);
                        assert_eq!(one.target, "/v1/orders", "{said}");
                        assert_eq!(one.like("host"), [HOST], "{said}");
                        for (name, values) in told(stage.kind) {
                            assert_eq!(one.like(name), values, "{name}, {said}");
                        }
                    }
                }
            }
        }
        // nginx names the upstream.
        let own = if stage.kind == Kind::Nginx { "orders_grpc" } else { HOST };
        let evil = ("host", "evil.example");
        let hosts: [&[(&str, &str)]; 7] = [
            &[(":authority", HOST)],
            &[(":authority", "evil.example")],
            &[(":authority", HOST), evil],
            &[(":authority", "evil.example"), ("host", HOST)],
            &[(":authority", HOST), (":authority", "evil.example")],
            &[evil],
            &[],
        ];
        let mut passed = Vec::new();
        for some in hosts {
            exact(&stage.proxy.grpc(), LIST, some, &trio.reads.token);
            let seen = stage.grpc.taken();
            passed.push(seen.len());
            for one in &seen {
                let said = format!("{:?} after {some:?}: {one:?}", stage.kind);
                assert_eq!(one.authority.as_deref(), Some(own), "{said}");
                assert!(one.headers.get_all("host").iter().all(|host| host == own), "{said}");
            }
        }
        assert_eq!(passed[..2], [1, 1], "{:?}", stage.kind);
    });
}
