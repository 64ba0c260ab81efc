//! What callers try so that the API reads another request than the gate was asked about.

use crate::proxies::attacks::{LAST, authorization, refused_or_true, request, tried};
use crate::proxies::bundle::STEADY;
use crate::proxies::grpc::{call, exact};
use crate::proxies::raw::pipelined;
use crate::proxies::stage::{Stage, Trio};

/// Paths that somebody may read as another one.
const PATHS: &[&str] = &[
    "//v1/orders",
    "/v1//orders",
    "/v1/orders/",
    "/v1/orders//",
    "/v1/./orders",
    "/v1/x/../orders",
    "/v1/orders/..",
    "/v1/orders/../secrets",
    "/v1/orders/7/..%2fsecrets",
    "/v1/orders/%2e%2e/secrets",
    "/v1/orders/.%2e/secrets",
    "/v1/orders/%2E%2E%2Fsecrets",
    "/v1/orders/..;/secrets",
    "/v1/orders;a=b",
    "/v1/orders/7;/../../secrets",
    "/v1/orders%00",
    "/v1/orders/%00/x",
    "/v1/orders%0d%0aX: y",
    "/v1/orders%20",
    "/v1/orders%09",
    "/v1\\orders",
    "/v1/orders/..\\secrets",
    "/v1/orders/%5c..%5csecrets",
    "/v1/%6frders",
    "/%76%31/orders",
    "/v1/orders%2f7",
    "/v1/orders%2F..%2Fsecrets",
    "/v1/orders/%252e%252e/secrets",
    "/v1/orders#x",
    "/v1/orders/7#/../secrets",
    "/V1/Orders",
    "/v1/ORDERS",
    "/v1/orders.json",
    "/v1/secrets?/v1/orders",
    "/v1/secrets#/v1/orders",
    "/v1/secrets/../orders",
    "http://shop.example/v1/secrets",
    "http://shop.example//v1/orders",
    "http://evil.example/v1/orders/../secrets",
    "*",
    "v1/orders",
    "?/v1/orders",
    "/v1/orders/%",
    "/v1/orders/%zz",
    "/v1/orders/%u002e",
    "/v1/orders/\u{ff0e}\u{ff0e}/secrets",
    "/v1/orders/7/%c0%ae%c0%ae/secrets",
    "/./v1/orders",
    "/../v1/orders",
    "/v1/orders/.",
    "/v1/orders/7|x",
    "/v1/orders/{id}",
    "/v1/orders/\"7\"",
    "/v1/orders/<7>",
];

/// Row 50: whatever reaches the API is one of the operations, in the one way to write it.
#[test]
fn attack_path_confusion_corpus() {
    let Some(trio) = Trio::shared("paths with two readings") else { return };
    let good = authorization(&trio.reads.token);
    trio.each(|stage| {
        for plain in ["/v1/orders", "/v1/orders/7", "/v1/orders/7?x=../..", "/v1/orders/a%20b"] {
            let ask = request(&format!("GET {plain}"), &[&good, LAST]);
            assert!(refused_or_true(&trio, stage, &ask), "{plain} at {:?}", stage.kind);
        }
        for path in PATHS {
            let (status, seen) = tried(stage, &request(&format!("GET {path}"), &[&good, LAST]));
            for one in seen {
                let target = one.target.split('?').next().unwrap();
                let said = format!("{path}: {status}, {one:?} at {:?}", stage.kind);
                assert!(one_reading(target), "{said}");
            }
        }
    });
}

/// Whether it is an operation of the catalog for every server there is: nothing in it could be read as structure.
fn one_reading(target: &str) -> bool {
    let Some(id) = target.strip_prefix("/v1/orders/") else { return target == "/v1/orders" };
    let mut bytes = Vec::new();
    let mut parts = id.split('%');
    bytes.extend_from_slice(parts.next().unwrap().as_bytes());
    for part in parts {
        let Ok(byte) = u8::from_str_radix(part.get(..2).unwrap_or("?"), 16) else { return false };
        bytes.push(byte);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    let structure = |byte: &u8| byte.is_ascii_control() || b"/\\;#?%".contains(byte);
    !bytes.is_empty() && bytes != b"." && bytes != b".." && !bytes.iter().any(structure)
}

/// Row 53: a gRPC method is its exact path.
#[test]
fn attack_grpc_path_variants() {
    let Some(trio) = Trio::shared("paths of gRPC methods") else { return };
    let bearer = format!("Bearer {}", trio.reads.token);
    trio.each(|stage| {
        let address = stage.proxy.grpc();
        let hosts = [(":authority", "shop.example")];
        let headers = [("authorization", bearer.as_str())];
        let said = call(&address, "/shop.v1.Orders/List", &headers).unwrap();
        assert_eq!(said.grpc, Some(0), "{said:?}");
        assert_eq!(stage.grpc.taken().len(), 1);
        for path in [
            "/shop.v1.Orders/List/",
            "//shop.v1.Orders/List",
            "/shop.v1.Orders//List",
            "/shop.v1.orders/list",
            "/shop.v1.Orders/Delete",
            "/shop.v1.Orders/List/../Delete",
            "/shop.v1.Orders/%4cist",
            "/shop.v1.Orders/List;x",
            "/Orders/List",
            "/shop.v1.Orders",
            "/shop.v1.Orders/Delete?/shop.v1.Orders/List",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            // A connection that ends is a refusal as well. Envoy writes `%4c` plainly, for the gate and for the API alike.
            let said = call(&address, path, &headers);
            let seen = stage.grpc.taken();
            let plain = seen.iter().all(|call| call.path == "/shop.v1.Orders/List");
            assert!(
                plain && (seen.is_empty() || path.contains("%4c")),
                "{path}: {seen:?}, {said:?}"
            );
        }
        // What no library sends, after what each does: the same bytes but for the path.
        exact(&address, "/shop.v1.Orders/List", &hosts, &trio.reads.token);
        assert_eq!(stage.grpc.taken().len(), 1, "the control does not arrive");
        for path in [
            "shop.v1.Orders/List",
            "shop.v1.Orders/Delete",
            "",
            "*",
            "?/shop.v1.Orders/List",
            "http://a/shop.v1.Orders/Delete",
        ] {
            exact(&address, path, &hosts, &trio.reads.token);
            let seen = stage.grpc.taken();
            assert!(seen.is_empty(), "{path}: {seen:?}");
        }
    });
}

/// Where HTTP/2 is spoken without TLS, an upgrade to it leads nobody past the check.
fn upgraded(stage: &Stage, bytes: &[u8]) {
    pipelined(&stage.proxy.grpc(), bytes);
    for call in stage.grpc.taken() {
        assert_eq!(call.path, "/v1/orders", "{:?}: {call:?}", stage.kind);
        assert_eq!(call.headers["x-protem-identity"], STEADY, "{call:?}");
    }
}

/// Row 54: what the gate was asked about is what the API gets, and nothing rides along.
#[test]
fn attack_smuggling_via_auth_subrequest() {
    let Some(trio) = Trio::shared("requests inside requests") else { return };
    let inner = "DELETE /v1/orders/7 HTTP/1.1\r\nHost: a\r\nX-Protem-Identity: admin\r\n\r\n";
    let reads = authorization(&trio.reads.token);
    let length = format!("Content-Length: {}", inner.len());
    let chunked = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let framings: Vec<(Vec<&str>, String)> = vec![
        (vec![length.as_str()], inner.into()),
        (vec!["Transfer-Encoding: chunked"], chunked.clone()),
        (vec![length.as_str(), "Transfer-Encoding: chunked"], format!("0\r\n\r\n{inner}")),
        (vec!["Content-Length: 0", length.as_str()], inner.into()),
        (vec!["Content-Length: 0, 5"], inner.into()),
        (vec!["Content-Length: +0"], inner.into()),
        (vec!["Content-Length : 0"], inner.into()),
        (vec!["Content-Length: 0", "Transfer-Encoding : chunked"], format!("0\r\n\r\n{inner}")),
        (vec!["Transfer-Encoding: xchunked"], inner.into()),
        (vec!["Transfer-Encoding: chunked, identity"], format!("0\r\n\r\n{inner}")),
        (vec!["Transfer-Encoding:\tchunked", "Transfer-Encoding: x"], format!("0\r\n\r\n{inner}")),
        (vec!["Transfer-Encoding: chunked"], format!("0;a=b\r\n\r\n{inner}")),
        (vec!["Transfer-Encoding: chunked"], format!("0\n\n{inner}")),
        (vec!["X: y\nTransfer-Encoding: chunked"], format!("0\r\n\r\n{inner}")),
        (
            vec![
                "Connection: Upgrade, HTTP2-Settings",
                "Upgrade: h2c",
                "HTTP2-Settings: AAMAAABkAAQAAP__",
            ],
            inner.into(),
        ),
        (vec!["Connection: Upgrade", "Upgrade: websocket"], inner.into()),
        (vec!["Expect: 100-continue", length.as_str()], inner.into()),
        (vec!["Host: evil.example"], inner.into()),
    ];
    trio.each(|stage| {
        for (lines, body) in &framings {
            let mut all: Vec<&[u8]> = vec![&reads];
            all.extend(lines.iter().map(|line| line.as_bytes()));
            let mut bytes = request("GET /v1/orders", &all);
            bytes.extend_from_slice(body.as_bytes());
            stage.upstream.taken();
            pipelined(&stage.proxy.address(), &bytes);
            if lines.contains(&"Upgrade: h2c") {
                upgraded(stage, &bytes);
            }
            for one in stage.upstream.taken() {
                let first = (one.method.as_str(), one.target.as_str());
                assert_eq!(
                    first,
                    ("GET", "/v1/orders"),
                    "{:?} after {lines:?}: {one:?}",
                    stage.kind
                );
                assert_eq!(one.like("x-protem-identity"), [STEADY], "{lines:?}: {one:?}");
                assert_eq!(
                    one.like("upgrade").iter().filter(|to| **to == "h2c").count(),
                    0,
                    "{lines:?}: {one:?}"
                );
                assert!(one.like("host").len() == 1, "{lines:?}: {one:?}");
            }
        }
        // A body goes to the API and not to the gate, whole.
        let big = "x".repeat(100_000) + inner;
        let writes = authorization(&trio.writes.token);
        let length = format!("Content-Length: {}", big.len());
        let mut bytes = request("PUT /v1/orders/7", &[&writes, length.as_bytes(), LAST]);
        bytes.extend_from_slice(big.as_bytes());
        let (status, seen) = tried(stage, &bytes);
        assert_eq!((status, seen.len()), (200, 1), "{:?}", stage.kind);
        assert_eq!(seen[0].body.len(), big.len());
    });
}
