//! The examples with TLS, as their comments have it: what they say to callers, and what they say of them.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::pki::Pki;
use crate::proxies::attacks::{LAST, authorization, request};
use crate::proxies::raw::{open, send, send_over};
use crate::proxies::stage::Trio;
use crate::proxies::tools::tools;

/// A client of servers of this authority, that speaks this protocol.
fn client(pki: &Pki, protocol: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.path("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config)
}

#[test]
fn the_examples_serve_with_tls_and_say_so() {
    let Some(trio) = Trio::shared("real proxies with TLS") else { return };
    let tools = tools("real proxies with TLS").unwrap();
    let pki = Pki::new();
    let name = ServerName::try_from("localhost").unwrap();
    let good = authorization(&trio.reads.token);
    trio.each(|stage| {
        let proxy = stage.over_tls(&tools, &pki);
        let ask = |lines: &[&[u8]]| {
            let line = ClientConnection::new(client(&pki, "http/1.1"), name.clone()).unwrap();
            let line = StreamOwned::new(line, open(&proxy.address()).unwrap());
            send_over(line, &request("GET /v1/orders", lines)).unwrap()
        };
        assert_eq!(ask(&[LAST]).status, 401, "{:?}", stage.kind);
        assert!(stage.upstream.taken().is_empty());
        assert_eq!(ask(&[&good, b"X-Forwarded-Proto: http", LAST]).status, 200, "{:?}", stage.kind);
        let seen = stage.upstream.taken();
        let [seen] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(seen.like("x-forwarded-proto"), ["https"], "{:?}: {seen:?}", stage.kind);
        // Nobody's credential gets anywhere in the clear.
        let plain = send(&proxy.address(), &request("GET /v1/orders", &[&good, LAST]));
        assert!(plain.is_err() || plain.is_ok_and(|it| it.status == 400), "{:?}", stage.kind);
        assert!(stage.upstream.taken().is_empty());
        // gRPC is HTTP/2.
        let mut line = ClientConnection::new(client(&pki, "h2"), name.clone()).unwrap();
        line.complete_io(&mut open(&proxy.grpc()).unwrap()).unwrap();
        assert_eq!(line.alpn_protocol(), Some(&b"h2"[..]), "{:?}", stage.kind);
    });
}
