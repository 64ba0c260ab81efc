//! A proxy, its gate and the APIs behind it, on one broker; all four are real processes or sockets.

use std::sync::{Arc, Mutex, Weak};

use crate::pki::Pki;
use crate::process::Broker;
use crate::proxies::bundle::{LEGACY, ORDERS, STEADY};
use crate::proxies::gate::{Gate, Told};
use crate::proxies::grpc::{GrpcUpstream, Said, call};
use crate::proxies::proxy::{ALL, Behind, Kind, Proxy};
use crate::proxies::raw::{Answer, get};
use crate::proxies::site::{Credential, broker, credential, told};
use crate::proxies::tools::{Tools, tools};
use crate::proxies::upstream::Upstream;

/// One proxy with all that it needs but the broker.
pub struct Stage {
    /// Which.
    pub kind: Kind,
    /// Its gate.
    pub gate: Gate,
    /// What callers call.
    pub proxy: Proxy,
    /// The API.
    pub upstream: Upstream,
    /// The gRPC API.
    pub grpc: GrpcUpstream,
}

impl Stage {
    /// Starts it; the gate is fresh.
    pub fn start(kind: Kind, tools: &Tools, broker: &Broker) -> Self {
        let (upstream, grpc) = (Upstream::start(), GrpcUpstream::start());
        let told = told(broker, broker.url(), kind.told());
        let gate = Gate::start(Told { socket: true, ..told });
        gate.fresh();
        let socket = gate.socket();
        let behind = Behind { gate: &socket, upstream: upstream.address(), grpc: grpc.address() };
        let proxy = Proxy::start(kind, tools, &behind, None);
        Self { kind, gate, proxy, upstream, grpc }
    }

    /// Another proxy before the same gate and APIs, with TLS.
    pub fn over_tls(&self, tools: &Tools, pki: &Pki) -> Proxy {
        let (gate, upstream, grpc) =
            (&*self.gate.socket(), self.upstream.address(), self.grpc.address());
        Proxy::start(self.kind, tools, &Behind { gate, upstream, grpc }, Some(pki))
    }

    /// Reads the orders with a token.
    pub fn read(&self, token: &str) -> std::io::Result<Answer> {
        let bearer = format!("Bearer {token}");
        get(&self.proxy.address(), "/v1/orders", &[("Authorization", &bearer), CLOSE])
    }

    /// Lists the orders over gRPC with a token.
    pub fn list(&self, token: &str) -> Result<Said, String> {
        let bearer = format!("Bearer {token}");
        call(&self.proxy.grpc(), LIST, &[("authorization", &bearer)])
    }

    /// The status of reading them; none when there was no answer.
    pub fn status(&self, token: &str) -> Option<u16> {
        self.read(token).ok().map(|answer| answer.status)
    }
}

/// The gRPC method that lists the orders.
pub const LIST: &str = "/shop.v1.Orders/List";
/// After one answer there is no other.
pub const CLOSE: (&str, &str) = ("Connection", "close");

/// All three proxies on one broker, for tests that break nothing.
pub struct Trio {
    _broker: Broker,
    /// A credential that reads orders.
    pub reads: Credential,
    /// One that writes them.
    pub writes: Credential,
    /// One that reads customers, from an API that cannot check tokens.
    pub customers: Credential,
    /// One that was revoked, as every gate knows.
    pub revoked: Credential,
    /// The proxies, each for one test at a time.
    pub stages: Vec<Mutex<Stage>>,
}

impl Trio {
    /// Those of the tests that run now, or new ones; without the tools, none.
    pub fn shared(what: &str) -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Trio>> = Mutex::new(Weak::new());
        let tools = tools(what)?;
        // Who failed to start them keeps nobody from trying again.
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(trio) = shared.upgrade() {
            return Some(trio);
        }
        let broker = broker(Vec::new());
        let [reads, revoked] = [(); 2].map(|()| credential(&broker, STEADY, ORDERS, "orders:read"));
        let writes = credential(&broker, STEADY, ORDERS, "orders:write");
        let customers = credential(&broker, STEADY, LEGACY, "customers:read");
        crate::proxies::site::Revoker::of(&broker).grant(&revoked);
        let stages: Vec<_> = ALL
            .map(|kind| {
                let stage = Stage::start(kind, &tools, &broker);
                crate::process::until("the revocation is known", || {
                    stage.status(&revoked.token) == Some(401)
                        && stage.status(&reads.token) == Some(200)
                });
                Mutex::new(stage)
            })
            .into();
        let trio = Arc::new(Self { _broker: broker, reads, writes, customers, revoked, stages });
        *shared = Arc::downgrade(&trio);
        Some(trio)
    }

    /// Runs a test on each proxy, all at once.
    pub fn each(&self, test: impl Fn(&Stage) + Sync) {
        std::thread::scope(|scope| {
            for stage in &self.stages {
                let test = &test;
                scope.spawn(move || {
                    let stage = stage.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    stage.upstream.taken();
                    stage.grpc.taken();
                    test(&stage);
                });
            }
        });
    }
}
