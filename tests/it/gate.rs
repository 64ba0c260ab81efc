//! A real gate process beside no proxy: what a proxy would ask is asked with raw bytes, and what Envoy would, with its own messages.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use protem_proto::ext_authz::envoy::config::core::v3::{HeaderMap, HeaderValue};
use protem_proto::ext_authz::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use protem_proto::ext_authz::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use protem_proto::ext_authz::envoy::service::auth::v3::check_response::HttpResponse;
use protem_proto::ext_authz::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse,
};

use crate::bundle::{GATEWAY, WORKERS};
use crate::process::{Broker, Kept, PATIENCE};

/// A running gate.
pub struct Gate {
    /// The process.
    pub process: Kept,
    listen: String,
    metrics: String,
    log: PathBuf,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Reply {
    /// The status, and the reason's code where it is a refusal.
    pub fn verdict(&self) -> (u16, String) {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        (self.status, body["code"].as_str().unwrap_or_default().to_owned())
    }
}

impl Gate {
    /// `protem gate --as edge`, with further arguments; waits until it is fresh.
    pub fn start(broker: &Broker, more: &[&str]) -> Self {
        let mut command = broker.cli();
        command.args(["gate", "--as", GATEWAY, "-o", "json", "--metrics", "127.0.0.1:0"]);
        if !more.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(more);
        let gate = Self::spawn(command, broker.home().join(format!("gate-{}.log", more.len())));
        gate.until("it is fresh", |gate| gate.probe("/readyz").status == 200);
        gate
    }

    /// A command that says on standard output where it listens.
    pub fn spawn(mut command: Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stderr(file.try_clone().unwrap()).stdout(file);
        let process = Kept(command.spawn().unwrap());
        let end = Instant::now() + PATIENCE;
        loop {
            let said = std::fs::read_to_string(&log).unwrap();
            let ready = said.lines().find_map(|line| {
                let said: serde_json::Value = serde_json::from_str(line).ok()?;
                Some((said["listen"].as_str()?.to_owned(), said["metrics"].as_str()?.to_owned()))
            });
            if let Some((listen, metrics)) = ready {
                return Self { process, listen, metrics, log };
            }
            assert!(Instant::now() < end, "no gate: {said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    pub fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "not: {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks the private listener.
    pub fn probe(&self, path: &str) -> Reply {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        exchange(TcpStream::connect(&self.metrics).unwrap(), request.as_bytes())
    }

    /// Sends exactly these bytes, and reads until the connection ends.
    pub fn raw(&self, bytes: &[u8]) -> String {
        match self.listen.strip_prefix("unix:") {
            Some(path) => talk(UnixStream::connect(path).unwrap(), bytes),
            None => {
                let stream = TcpStream::connect(&self.listen).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                talk(stream, bytes)
            }
        }
    }

    /// A proxy's question about the orders API.
    pub fn ask(&self, headers: &[(&str, &str)]) -> Reply {
        self.ask_at("/authz/orders-api", headers)
    }

    /// The same at another path.
    pub fn ask_at(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n{lines}\r\n");
        parse(&self.raw(request.as_bytes()))
    }

    /// What nginx asks about a call.
    pub fn nginx(&self, method: &str, uri: &str, token: &str) -> Reply {
        let token = format!("Bearer {token}");
        self.ask(&[
            ("X-Original-Method", method),
            ("X-Original-URI", uri),
            ("Authorization", &token),
        ])
    }

    /// A client as Envoy is one.
    pub async fn envoy(&self) -> Envoy {
        let url = format!("http://{}", self.listen);
        let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await;
        Envoy(AuthorizationClient::new(channel.unwrap()))
    }
}

fn talk(mut stream: impl Read + Write, bytes: &[u8]) -> String {
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // Who is cut off reads what came before.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn exchange(stream: TcpStream, bytes: &[u8]) -> Reply {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    parse(&talk(stream, bytes))
}

fn parse(answer: &str) -> Reply {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("0");
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    });
    Reply { status: status.parse().unwrap(), headers: headers.collect(), body: body.to_owned() }
}

/// Envoy, as far as a gate sees of it.
pub struct Envoy(AuthorizationClient<tonic::transport::Channel>);

/// A question of Envoy's, to be changed before it is asked.
pub struct Question {
    pub resource: Option<&'static str>,
    pub method: Vec<u8>,
    pub path: Vec<u8>,
    /// As with `encode_raw_headers`, or merged.
    pub raw: bool,
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

impl Question {
    /// A call with a token.
    pub fn new(method: &str, path: &str, token: &str) -> Self {
        let headers = vec![("authorization", format!("Bearer {token}").into_bytes())];
        Self {
            resource: Some("orders-api"),
            method: method.into(),
            path: path.into(),
            raw: true,
            headers,
        }
    }

    /// One more header.
    pub fn with(mut self, name: &'static str, value: &[u8]) -> Self {
        self.headers.push((name, value.to_vec()));
        self
    }

    pub fn message(&self) -> CheckRequest {
        let mut http = HttpRequest {
            method: self.method.clone(),
            path: self.path.clone(),
            ..HttpRequest::default()
        };
        let pseudo = [(":path", &self.path), (":method", &self.method)];
        let pseudo = pseudo.map(|(name, value)| (name, value.clone()));
        let all = pseudo.iter().chain(&self.headers);
        if self.raw {
            let headers = all.map(|(name, value)| HeaderValue {
                key: (*name).to_owned(),
                raw_value: value.clone(),
                ..HeaderValue::default()
            });
            http.header_map = Some(HeaderMap { headers: headers.collect() });
        } else {
            for (name, value) in all {
                http.headers
                    .entry((*name).to_owned())
                    .and_modify(|merged| merged.extend([b",", value.as_slice()].concat()))
                    .or_insert_with(|| value.clone());
            }
        }
        let extensions = self.resource.map(|name| ("resource".to_owned(), name.to_owned()));
        CheckRequest {
            attributes: Some(AttributeContext {
                request: Some(Request { http: Some(http) }),
                context_extensions: extensions.into_iter().collect(),
            }),
        }
    }
}

impl Envoy {
    /// The answer; a gRPC error is none, ever.
    pub async fn ask(&mut self, question: &Question) -> Told {
        self.send(question.message()).await
    }

    /// The same of a message as it is.
    pub async fn send(&mut self, message: CheckRequest) -> Told {
        Told(self.0.check(message).await.expect("a gRPC error").into_inner())
    }
}

/// What Envoy is told.
#[derive(Debug)]
pub struct Told(pub CheckResponse);

impl Told {
    /// The status that the caller sees, and the reason's code; 200 is a pass.
    pub fn verdict(&self) -> (u16, String) {
        let code = self.0.status.as_ref().map(|status| status.code);
        match self.0.http_response.as_ref().unwrap() {
            HttpResponse::OkResponse(_) => {
                assert_eq!(code, Some(0));
                (200, String::new())
            }
            HttpResponse::DeniedResponse(denied) => {
                assert!(code.is_some_and(|code| code != 0), "{code:?}");
                let body: serde_json::Value = serde_json::from_str(&denied.body).unwrap();
                let status = denied.status.as_ref().unwrap().code.try_into().unwrap();
                (status, body["code"].as_str().unwrap().to_owned())
            }
        }
    }

    /// Headers to write, and headers to remove.
    pub fn changes(&self) -> (HashMap<String, String>, Vec<String>) {
        let (headers, remove) = match self.0.http_response.as_ref().unwrap() {
            HttpResponse::OkResponse(ok) => (&ok.headers, ok.headers_to_remove.clone()),
            HttpResponse::DeniedResponse(denied) => (&denied.headers, Vec::new()),
        };
        let headers = headers.iter().map(|option| {
            assert_eq!(option.append_action, 2, "it overwrites");
            let header = option.header.as_ref().unwrap();
            (header.key.clone(), String::from_utf8(header.value.clone()).unwrap())
        });
        (headers.collect(), remove)
    }
}

/// A credential of the first worker for this scope, and its grant.
pub fn credential(broker: &Broker, task: &str, scope: &str) -> (String, String) {
    let line = ["request", "--task", task, "--on", "orders-api", "--scope", scope, "-o", "json"];
    let said = broker.run(WORKERS[0], &line).expect(0).json();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    (text(&said["credential"]["token"]), text(&said["grant"]["id"]))
}
