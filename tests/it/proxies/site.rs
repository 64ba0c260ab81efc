//! A broker with callers: credentials and revocations as these tests need them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use protem::cli::client::Client;
use protem_proto::wire::v1;
use protem_proto::wire::v1::selector::By;
use serde_json::Value;

use crate::process::Broker;
use crate::proxies::bundle::{FILES, GATEWAY, OPERATOR};
use crate::proxies::gate::{Gate, Told};

/// A credential, and what it hangs on.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The token.
    pub token: String,
    /// Its grant.
    pub grant: String,
    /// Its task.
    pub task: String,
    /// Whose.
    pub identity: String,
}

/// A broker whose keys change only when they are told to, and then without waiting for anybody who only polls.
pub fn broker(env: Vec<(&'static str, String)>) -> Broker {
    Broker::with_env(FILES, [vec![("PROTEM_DEV_JWKS_WAIT", "0s".to_owned())], env].concat())
}

/// The same, where all but the brief credentials may be accepted by a view of a minute, the oldest there is: what a loaded machine
/// does after a broker went away is done by then.
pub fn patient_broker() -> Broker {
    let (steady, patient) = ("max_staleness    = \"10s\"", "max_staleness    = \"60s\"");
    let text = FILES[0].1.replace(steady, patient);
    assert!(text != FILES[0].1);
    let files = [&[(FILES[0].0, text.as_str())], &FILES[1..]].concat();
    Broker::with_env(&files, vec![("PROTEM_DEV_JWKS_WAIT", "0s".to_owned())])
}

/// What a gate of this broker is told that reaches it at `url`.
pub fn told<'a>(broker: &Broker, url: String, proxy: Option<&'a str>) -> Told<'a> {
    let token = broker.token_file(GATEWAY);
    Told { broker: url, issuer: broker.url(), token, proxy, socket: false, env: Vec::new() }
}

/// A gate of this broker, fresh.
pub fn fresh_gate(broker: &Broker, proxy: Option<&str>) -> Gate {
    let gate = Gate::start(told(broker, broker.url(), proxy));
    gate.fresh();
    gate
}

/// A credential for a task of its own.
pub fn credential(broker: &Broker, identity: &str, resource: &str, scope: &str) -> Credential {
    static TASKS: AtomicU64 = AtomicU64::new(0);
    let task = format!("proxied-{}", TASKS.fetch_add(1, Ordering::Relaxed));
    let ask = ["request", "--task", &task, "--kind", "load", "--on", resource, "--scope", scope];
    let ask = [&ask[..], &["-o", "json"]].concat();
    let answer = broker.run(identity, &ask).expect(0).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Credential {
        token: text(&answer["credential"]["token"]),
        grant: text(&answer["grant"]["id"]),
        task,
        identity: identity.to_owned(),
    }
}

/// Ends access, and nothing else: who answers, and when.
pub struct Revoker {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Revoker {
    /// As somebody who may.
    pub fn of(broker: &Broker) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async { broker.client(OPERATOR) });
        Self { runtime, client }
    }

    /// Revokes, and tells the moment at which the answer was here.
    pub fn revoke(&self, by: By) -> Result<Instant, tonic::Status> {
        let request = v1::RevokeRequest {
            selector: Some(v1::Selector { by: Some(by) }),
            note: "a test says so".into(),
            wait: None,
        };
        self.runtime.block_on(async {
            let mut answers = self.client.governance().revoke(request).await?.into_inner();
            answers.message().await?.expect("an answer");
            Ok(Instant::now())
        })
    }

    /// Revokes one grant.
    #[track_caller]
    pub fn grant(&self, credential: &Credential) -> Instant {
        self.revoke(By::Grant(credential.grant.clone())).expect("it is revoked")
    }

    /// Revokes one grant, and follows its receipts until there is nothing left to wait for.
    pub fn follow(&self, grant: String, mut told: impl FnMut(v1::RevokeResponse)) {
        let request = v1::RevokeRequest {
            selector: Some(v1::Selector { by: Some(By::Grant(grant)) }),
            note: "a test says so".into(),
            wait: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        };
        self.runtime.block_on(async {
            let mut answers = self.client.governance().revoke(request).await.unwrap().into_inner();
            while let Some(answer) = answers.message().await.unwrap() {
                told(answer);
            }
        });
    }
}
