//! Envoy's external authorization over gRPC. Whatever goes wrong here is a denial: Envoy lets pass, if it is told to, what a
//! gRPC error, a dead server or a late answer leaves open.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use protem_proto::ext_authz::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use protem_proto::ext_authz::envoy::config::core::v3::{HeaderValue as Pair, HeaderValueOption};
use protem_proto::ext_authz::envoy::service::auth::v3::attribute_context::HttpRequest;
use protem_proto::ext_authz::envoy::service::auth::v3::check_response::HttpResponse;
use protem_proto::ext_authz::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use protem_proto::ext_authz::envoy::r#type::v3::HttpStatus;
use protem_proto::ext_authz::google::rpc::Status;
use protem_verify::names::ResourceName;
use protem_verify::verifier::Class;

use crate::decision::{Asked, Decision, Judge, Pass, Refusal, Strips};
use crate::refusal;

/// The method that Envoy calls.
pub const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The route's word for its resource, in `context_extensions`.
const RESOURCE: &str = "resource";
/// The largest question: Envoy's own limit of a request's headers is 60 KiB, and each is sent with its length.
pub const QUESTION_MAX: usize = 256 * 1024;
/// How long a question may take to arrive. Envoy waits 200 ms for the answer, unless it is told otherwise.
pub const QUESTION_WITHIN: Duration = Duration::from_secs(5);

/// Reads one question and answers it.
pub async fn check<B>(judge: &Judge, body: B) -> Response<UnsyncBoxBody<Bytes, Infallible>>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes = read(body, QUESTION_WITHIN).await;
    framed(&answer(judge, bytes.as_deref().and_then(unframed)))
}

/// A question's bytes, unless there are too many of them or they take too long.
async fn read<B>(body: B, within: Duration) -> Option<Bytes>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = Limited::new(body, QUESTION_MAX).collect();
    let read = tokio::time::timeout(within, read).await;
    read.ok().and_then(Result::ok).map(|whole| whole.to_bytes())
}

/// The answer to a question: a `CheckRequest`, or nothing where none could be read.
#[must_use]
pub fn answer(judge: &Judge, question: Option<&[u8]>) -> CheckResponse {
    let Some(Ok(question)) = question.map(CheckRequest::decode) else {
        return denied(&Refusal::Unreadable, None);
    };
    let attributes = question.attributes.unwrap_or_default();
    let named = attributes.context_extensions.get(RESOURCE);
    let Some(resource) = named.and_then(|name| ResourceName::try_from(name.as_str()).ok()) else {
        return denied(&Refusal::NoRoute, None);
    };
    let http = attributes.request.and_then(|request| request.http).unwrap_or_default();
    match decide(judge, &resource, &http) {
        Decision::Pass(pass) => passed(&pass),
        Decision::Refuse(refusal) => denied(&refusal, Some(&resource)),
    }
}

fn decide(judge: &Judge, resource: &ResourceName, http: &HttpRequest) -> Decision {
    // Both forms, so that what comes in either counts: a second credential in the other one is a second credential.
    let merged = http.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let each = http.header_map.iter().flat_map(|map| &map.headers).flat_map(|header| {
        let values = [&header.value, &header.raw_value];
        let filled = values.into_iter().filter(|value| !value.is_empty());
        // One without a value is one all the same.
        let empty = values.iter().all(|value| value.is_empty()).then_some(&header.value);
        filled.chain(empty).map(|value| (header.key.as_str(), value.as_slice()))
    });
    let headers: Vec<(&str, &[u8])> = merged.chain(each).collect();
    for (name, said) in [(":method", &http.method), (":path", &http.path)] {
        let mut found = headers.iter().filter(|(found, _)| *found == name);
        if found.any(|(_, value)| *value != said.as_slice()) {
            return Decision::Refuse(Refusal::ProxyHeaders);
        }
    }
    let (method, target) = (http.method.as_slice(), http.path.as_slice());
    judge.decide(&Asked { resource, method, target, headers: &headers, strips: Strips::Any })
}

fn passed(pass: &Pass) -> CheckResponse {
    let identity = pass.identity();
    let mut headers: Vec<HeaderValueOption> =
        identity.iter().map(|(name, value)| option(name, value.as_bytes())).collect();
    if let Some((name, value)) = pass.secret() {
        headers.push(option(&name.to_ascii_lowercase(), value.as_bytes()));
    }
    let named = identity.iter().map(|(name, value)| {
        let name = name.trim_start_matches("x-protem-").to_owned();
        (name, Value { kind: Some(Kind::StringValue(value.clone())) })
    });
    let remove = pass.remove().into_iter().map(str::to_owned).collect();
    CheckResponse {
        status: Some(Status::default()),
        dynamic_metadata: Some(Struct { fields: named.collect() }),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers,
            headers_to_remove: remove,
        })),
    }
}

fn denied(refusal: &Refusal, resource: Option<&ResourceName>) -> CheckResponse {
    let (parts, body) = refusal::answer(refusal, resource).into_parts();
    let headers = parts.headers.iter();
    let headers = headers.map(|(name, value)| option(name.as_str(), value.as_bytes())).collect();
    // gRPC's own codes, for Envoy's statistics; the status that the caller sees is the HTTP one.
    let code = match refusal.class() {
        Class::Unauthorized => 16,
        Class::Forbidden => 7,
        Class::Unavailable => 14,
        Class::TooMany => 8,
    };
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(parts.status.as_u16()) }),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    CheckResponse {
        status: Some(Status { code, message: refusal.code().id.to_owned() }),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        dynamic_metadata: None,
    }
}

fn option(name: &str, value: &[u8]) -> HeaderValueOption {
    let header = Pair { key: name.to_owned(), value: value.to_vec(), raw_value: Vec::new() };
    HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    }
}

/// The one message of a unary call: not compressed, and nothing after it.
fn unframed(bytes: &[u8]) -> Option<&[u8]> {
    let (head, message) = bytes.split_first_chunk::<5>()?;
    let [0, length @ ..] = head else { return None };
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (message.len() == length).then_some(message)
}

fn framed(answer: &CheckResponse) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(answer.encoded_len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&answer.encode_to_vec());
    let mut trailers = HeaderMap::new();
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    let body = Full::new(frame.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed_unsync());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body::Frame;
    use http_body_util::StreamBody;
    use protem_clock::clock::SystemClock;
    use protem_proto::ext_authz::envoy::service::auth::v3::AttributeContext;
    use protem_proto::ext_authz::envoy::service::auth::v3::attribute_context::Request;
    use protem_verify::verifier::Verifier;
    use protem_verify::view::View;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::body::EVERY;
    use crate::secrets::Secrets;

    fn judge() -> Judge {
        let view = View::new("https://broker.example", None);
        let views = vec![Verifier::new(view.reader())];
        Judge::new(views, Arc::new(SystemClock), Secrets::default())
    }

    #[track_caller]
    fn check(told: &CheckResponse, status: i32, code: &str) {
        let Some(HttpResponse::DeniedResponse(denied)) = &told.http_response else {
            panic!("no denial: {told:?}")
        };
        assert_eq!(denied.status.as_ref().unwrap().code, status);
        assert!(denied.body.contains(code), "{}", denied.body);
        assert!(told.status.as_ref().is_some_and(|status| status.code != 0));
    }

    #[test]
    fn attack_questions_that_cannot_be_read() {
        check(&answer(&judge(), None), 503, "PT-0426");
        // Field 1 is cut short; a map's key is not UTF-8; a varint has no end.
        for bytes in [&b"\x0a\xff"[..], b"\x0a\x05\x52\x03\x0a\x01\xff", &[0xff; 32]] {
            check(&answer(&judge(), Some(bytes)), 503, "PT-0426");
        }
        check(&answer(&judge(), Some(b"")), 503, "PT-0425");
    }

    /// One that can be read, with a header of this many bytes.
    fn question(header: usize) -> Vec<u8> {
        let headers = [("x-note".to_owned(), vec![b'a'; header])].into();
        let http = Some(HttpRequest { headers, ..HttpRequest::default() });
        let context_extensions = [(RESOURCE.to_owned(), "orders-api".to_owned())].into();
        let request = Some(Request { http });
        let attributes = Some(AttributeContext { request, context_extensions });
        CheckRequest { attributes }.encode_to_vec()
    }

    #[tokio::test]
    async fn attack_no_question_ends_in_a_grpc_error() {
        let framed = |flag: u8, length: usize, message: &[u8]| {
            let length = u32::try_from(length).unwrap();
            Bytes::from([&[flag][..], &length.to_be_bytes(), message].concat())
        };
        let (good, huge) = (question(10), question(QUESTION_MAX));
        for (bytes, code) in [
            (framed(0, 0, &[]), "PT-0425"),
            (framed(0, good.len(), &good), "PT-0401"),
            (framed(1, good.len(), &good), "PT-0426"),
            (framed(0, good.len() + 7, &good), "PT-0426"),
            // A second one behind the first, and one that the first one's length says nothing of.
            (framed(0, good.len(), &good.repeat(2)), "PT-0426"),
            (framed(0, 0, &good), "PT-0426"),
            (framed(0, huge.len(), &huge), "PT-0426"),
            (Bytes::new(), "PT-0426"),
            (Bytes::from_static(&[0, 0]), "PT-0426"),
        ] {
            let body = super::check(&judge(), Full::new(bytes)).await.into_body();
            let whole = body.collect().await.unwrap();
            assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
            let bytes = whole.to_bytes();
            let told = CheckResponse::decode(unframed(&bytes).unwrap()).unwrap();
            let status = if code == "PT-0401" { 401 } else { 503 };
            check(&told, status, code);
        }
    }

    #[tokio::test]
    async fn attack_question_that_never_ends() {
        let (_kept, never) = tokio::sync::mpsc::channel(1);
        let never = tokio_stream::wrappers::ReceiverStream::new(never);
        let never = StreamBody::new(never.map(Ok::<Frame<Bytes>, Infallible>));
        let read = tokio::time::timeout(Duration::from_secs(30), read(never, EVERY));
        assert_eq!(read.await.ok(), Some(None), "it is waited for");
    }
}
