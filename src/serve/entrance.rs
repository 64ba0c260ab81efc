//! What every gRPC call passes before its service sees a byte of its body: who calls, room, rate, time, and one span.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http_body_util::BodyExt;
use protem_core::event::Actor;
use protem_verify::codes::{fault, wire};
use tonic::{Code as Grpc, Status};
use tracing::{Instrument, Span, field};

use crate::engine::broker::Broker;
use crate::policy::login::{Caller, Principal};
use crate::serve::caller::{Asked, Door, SignedIn, nobodys_fault};
use crate::serve::grounds::CallerTime;
use crate::serve::guarded::Guarded;
use crate::serve::limits::{
    FAULT_RETRY, LOADED_WITHIN, MESSAGE_MAX, PASS_OVER_WITHIN, STREAMS_OF_ONE_MAX,
};
use crate::serve::methods::{self, Lane, Rule, Streams, Who};
use crate::serve::peers::Peer;
use crate::serve::places::{CallLimits, Place, Places, Room};
use crate::serve::rates::{Guess, Rates};
use crate::serve::seats::{Seat, Seated, Seats};
use crate::serve::status::{DOMAIN, Problem};
use crate::serve::svid::{PeerCert, Presented};
use crate::serve::waits::Waits;
use crate::serve::watch::{Watch, stopping};
use crate::serve::who;

/// The way in.
pub struct Entrance {
    broker: Broker,
    door: Arc<Door>,
    time: CallerTime,
    watch: Watch,
    rates: Arc<Rates>,
    places: Places,
    /// Open streams, per caller.
    streams: Arc<Seats>,
    waits: Waits,
    /// The same of those that hold a task, which may be many.
    holds: Arc<Seats>,
    dev: bool,
}

impl Entrance {
    /// A way in to `broker`; in development reflection is open.
    #[must_use]
    pub fn new(
        broker: Broker,
        door: Arc<Door>,
        time: CallerTime,
        watch: Watch,
        dev: bool,
        limits: CallLimits,
    ) -> Self {
        Self {
            broker,
            door,
            time,
            watch,
            rates: Arc::default(),
            places: Places::new(limits),
            streams: Seats::new(STREAMS_OF_ONE_MAX),
            waits: Waits::new(limits),
            holds: Seats::new(limits.holds_of_one),
            dev,
        }
    }

    /// Done when no call is in flight; none gets a place from then on.
    pub async fn quiet(&self) {
        self.places.empty().await;
    }

    /// What is counted of callers, also by the services behind it.
    #[must_use]
    pub fn rates(&self) -> Arc<Rates> {
        Arc::clone(&self.rates)
    }

    /// Forgets rates and sign-ins that no longer matter.
    pub fn tidy(&self) {
        self.rates.tidy();
        let generation = self.door.changes().generation();
        let bundle = self.broker.bundle();
        self.door.tidy(&Asked { bundle: &bundle, generation, now: self.time.now() });
    }

    async fn admit(&self, request: &mut Request, rule: &Rule) -> Result<Admitted, Problem> {
        if self.watch.draining().has_begun() {
            return Err(stopping());
        }
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let presented = request.extensions().get::<Presented>().cloned();
        let from = (peer.as_deref(), presented.as_ref());
        let signed_in = self.sign_in(request.headers(), rule, from).await?;
        let caller = signed_in.as_deref().and_then(|signed_in| signed_in.who.as_ref().ok());
        let guesser = caller.filter(|_| rule.guessed).map(Caller::actor);
        if let Some(who) = &guesser {
            self.rates.may_guess(who, self.time.boot())?;
        }
        let (place, within) = match caller {
            Some(caller) => (self.places.take(rule.lane, caller)?, rule.within),
            None => {
                let from = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip());
                let within = rule.within.min(self.places.strangers_within());
                (self.places.take_as_stranger(from)?, within)
            }
        };
        let stream = rule.streams.map(|kind| self.stream(kind, caller)).transpose()?.flatten();
        if rule.state {
            self.loaded().await?;
        }
        let foreign = signed_in.clone().filter(|_| rule.path.starts_with(REFLECTION));
        if let Some(signed_in) = signed_in {
            Span::current().record("caller", field::display(name(&signed_in)));
            request.extensions_mut().insert(signed_in);
        }
        let room = Arc::new(Room::of(place, self.waits.clone()));
        request.extensions_mut().insert(Arc::clone(&room));
        Ok(Admitted { room, within, stream, guesser, foreign })
    }

    /// The broker's state is here, or is in time.
    ///
    /// # Errors
    /// UNAVAILABLE and when to come back: it is still being loaded.
    pub(in crate::serve) async fn loaded(&self) -> Result<(), Problem> {
        if self.broker.takes_turns(LOADED_WITHIN).await {
            return Ok(());
        }
        let (code, why) = (fault::LOADING, fault::LOADING.title);
        Err(Problem::new(Grpc::Unavailable, code, why).retry(FAULT_RETRY))
    }

    /// A place for a person's page, counted as their calls are.
    pub(in crate::serve) fn page(&self, caller: &Caller, lane: Lane) -> Result<Place, Problem> {
        if self.watch.draining().has_begun() {
            return Err(stopping());
        }
        if lane == Lane::Ordinary {
            self.rates.count(caller, &self.broker.bundle())?;
        }
        self.places.take(lane, caller)
    }

    /// A place among the caller's open streams. Gateways only follow the feed, which counts its subscribers itself.
    pub(in crate::serve) fn stream(
        &self,
        kind: Streams,
        caller: Option<&Caller>,
    ) -> Result<Option<Seat>, Problem> {
        let Some(caller) = caller.filter(|caller| !is_gateway(caller)) else { return Ok(None) };
        let (seats, what) = match kind {
            Streams::Following => (&self.streams, "streams"),
            Streams::Holding => (&self.holds, "streams that hold tasks"),
        };
        let seat = seats.take(caller.actor()).ok_or_else(|| {
            let why = format!("`{}` has {} {what} open", caller.actor().0, seats.max());
            let problem = Problem::new(Grpc::ResourceExhausted, wire::TOO_MANY_STREAMS, why);
            problem.retry(FAULT_RETRY)
        });
        Ok(Some(seat?))
    }

    async fn sign_in(
        &self,
        headers: &HeaderMap,
        rule: &Rule,
        (peer, presented): (Option<&Peer>, Option<&Presented>),
    ) -> Result<Option<Arc<SignedIn>>, Problem> {
        if rule.who == Who::Anyone {
            return Ok(None);
        }
        let certificate = counted(headers, peer, presented)?;
        let (now, boot) = (self.time.now(), self.time.boot());
        // Looked at before the bundle: a sign-in by the last one must not count as one by the next.
        let generation = self.door.changes().generation();
        let bundle = self.broker.bundle();
        let asked = Asked { bundle: &bundle, generation, now };
        let ip = peer.map(|peer| peer.address.ip());
        let failed = || {
            if let Some(ip) = ip {
                self.rates.failed(ip, boot);
            }
        };
        // Who signed in before costs no signature check, so a neighbour's bad tokens keep nobody from ending access.
        let signed_in = match self.door.known(headers, certificate, (&bundle, now)) {
            Some(known) => known,
            None => {
                if let Some(ip) = ip {
                    self.rates.may_try(ip, boot)?;
                }
                let _signing_in = peer.map(Peer::signing_in);
                let signed_in = self.door.sign_in(headers, certificate, &asked).await;
                // An issuer that is down must not lock its callers' whole address out.
                let blamed = |problem: &Problem| !nobodys_fault(problem.code());
                signed_in.inspect_err(|problem| blamed(problem).then(failed).unwrap_or_default())?
            }
        };
        match signed_in.caller() {
            Ok(caller) => {
                if let Some(peer) = peer {
                    peer.sign_in(caller, &bundle)?;
                }
                if rule.lane == Lane::Ordinary {
                    self.rates.count(caller, &bundle)?;
                }
                if let Some(right) = rule.right {
                    who::on_broker(&self.broker, caller, right)?;
                }
            }
            // A token that anybody can get is no sign-in: its holder stays a stranger, under a stranger's limits.
            Err(problem) => {
                failed();
                if rule.who == Who::Known {
                    return Err(problem);
                }
            }
        }
        Ok(Some(signed_in))
    }
}

/// What a call occupies.
struct Admitted {
    room: Arc<Room>,
    /// How long its first answer may take.
    within: Duration,
    stream: Option<Seat>,
    /// Whose refusals are counted.
    guesser: Option<Actor>,
    /// Who called a stream whose service does not end it with its caller.
    foreign: Option<Arc<SignedIn>>,
}

/// The certificate that may speak for a call, if any. One that did not count when the connection was opened is in nobody's way
/// who brings a token, and refuses everybody else with the reason; that costs no look at any signature.
fn counted<'p>(
    headers: &HeaderMap,
    peer: Option<&Peer>,
    presented: Option<&'p Presented>,
) -> Result<Option<&'p Arc<PeerCert>>, Problem> {
    match presented {
        None => Ok(None),
        Some(Ok(certificate)) => Ok(Some(certificate)),
        Some(Err(_)) if headers.contains_key(AUTHORIZATION) => Ok(None),
        Some(Err(untrusted)) => {
            if let Some(peer) = peer {
                peer.refuse();
            }
            let why = untrusted.why.clone();
            Err(Problem::new(Grpc::Unauthenticated, untrusted.code, why))
        }
    }
}

fn is_gateway(caller: &Caller) -> bool {
    match &caller.principal {
        Principal::Gateway { .. } => true,
        Principal::Workload { .. } | Principal::Person(_) => false,
    }
}

/// The middleware around all gRPC services.
pub async fn enter(
    State(entrance): State<Arc<Entrance>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(rule) = methods::rule(request.uri().path(), entrance.dev) else {
        return unknown_method();
    };
    let span = tracing::info_span!(
        "rpc",
        method = rule.path,
        caller = field::Empty,
        code = field::Empty,
        ms = field::Empty
    );
    let started = entrance.broker.clock().boot();
    let recorded = span.clone();
    let broker = entrance.broker.clone();
    let response = called(entrance, rule, request, next).instrument(span).await;
    let took = broker.clock().boot().saturating_sub(started);
    recorded.record("ms", u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    recorded.record("code", field::display(code(response.headers())));
    recorded.in_scope(|| tracing::debug!("answered"));
    response
}

async fn called(entrance: Arc<Entrance>, rule: Rule, mut request: Request, next: Next) -> Response {
    let Admitted { room, within, stream, guesser, foreign } =
        match entrance.admit(&mut request, &rule).await {
            Ok(admitted) => admitted,
            Err(problem) => {
                pass_over(request.into_body()).await;
                return answer(problem);
            }
        };
    // A call that ends for lack of time has not undone anything: what it began is finished (design.md §2).
    let within = within.min(asked(request.headers()).unwrap_or(Duration::MAX));
    let response = tokio::time::timeout(within, next.run(request)).await;
    room.leave();
    match response {
        Ok(response) => {
            if let Some(who) = guesser.filter(|_| Guess::is(&response)) {
                entrance.rates.guessed(who, entrance.time.boot());
            }
            guarded(&entrance, seated(complete(response), stream), foreign)
        }
        Err(_) => {
            let why = format!("the call was not answered within {within:?}");
            answer(Problem::new(Grpc::DeadlineExceeded, wire::TOO_SLOW, why).retry(FAULT_RETRY))
        }
    }
}

/// A stream's place is taken until its last answer is read, or its reader has gone.
fn seated(response: Response, stream: Option<Seat>) -> Response {
    match stream {
        Some(seat) => response.map(|body| Body::new(Seated::new(body, seat))),
        None => response,
    }
}

/// Ends a stream with its caller where its service does not.
fn guarded(entrance: &Entrance, response: Response, foreign: Option<Arc<SignedIn>>) -> Response {
    let Some(signed_in) = foreign else { return response };
    let watch = entrance.watch.clone();
    let over = async move { watch.over(signed_in).await };
    response.map(|body| Body::new(Guarded::new(body, over)))
}

/// Reads a refused call's small body away, unparsed. Answering before it has come would reset the stream, its late bytes
/// would count as the connection's errors, and a flood of refusals would cost its well-behaved callers their connection.
async fn pass_over(mut body: Body) {
    let whole = async {
        let mut seen = 0_usize;
        while let Some(Ok(frame)) = body.frame().await {
            seen = seen.saturating_add(frame.data_ref().map_or(0, bytes::Bytes::len));
            if seen > MESSAGE_MAX {
                break;
            }
        }
    };
    // A stream has no end to wait for.
    let _ = tokio::time::timeout(PASS_OVER_WITHIN, whole).await;
}

/// The caller's own deadline, `grpc-timeout`; what cannot be read counts as none, and ours holds anyway.
fn asked(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count.saturating_mul(3_600))),
        "M" => Some(Duration::from_secs(count.saturating_mul(60))),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Errors that the library made, before a service was reached, get their code too.
fn complete(response: Response) -> Response {
    let headers = response.headers();
    let status = Status::from_header_map(headers);
    let Some(status) = status.filter(|status| status.code() != Grpc::Ok) else {
        return response;
    };
    if !status.details().is_empty() {
        return response;
    }
    answer(of_the_library(&status))
}

fn of_the_library(status: &Status) -> Problem {
    let problem = |grpc, code, why: &str| Problem::new(grpc, code, why.to_owned());
    match status.code() {
        Grpc::OutOfRange | Grpc::ResourceExhausted => {
            problem(Grpc::InvalidArgument, wire::TOO_LARGE, "the message is too large")
        }
        Grpc::Unimplemented => {
            problem(Grpc::Unimplemented, wire::UNKNOWN_METHOD, "there is no such method")
        }
        Grpc::Internal | Grpc::InvalidArgument => {
            problem(Grpc::InvalidArgument, wire::UNDECODABLE, "the message cannot be decoded")
        }
        Grpc::Ok
        | Grpc::Cancelled
        | Grpc::Unknown
        | Grpc::DeadlineExceeded
        | Grpc::NotFound
        | Grpc::AlreadyExists
        | Grpc::PermissionDenied
        | Grpc::FailedPrecondition
        | Grpc::Aborted
        | Grpc::Unavailable
        | Grpc::DataLoss
        | Grpc::Unauthenticated => problem(status.code(), wire::DEFECT, status.message()),
    }
}

/// A path that is no method's.
#[must_use]
pub fn unknown_method() -> Response {
    let why = "the broker serves no method of this path";
    answer(Problem::new(Grpc::Unimplemented, wire::UNKNOWN_METHOD, why))
}

/// A problem as a whole gRPC answer.
#[must_use]
pub fn answer(problem: Problem) -> Response {
    problem.status().into_http::<Body>()
}

fn code(headers: &HeaderMap) -> String {
    let status = Status::from_header_map(headers);
    status.map_or_else(|| "OK".to_owned(), |status| format!("{:?}", status.code()))
}

/// The one service with streams that is not ours.
const REFLECTION: &str = "/grpc.reflection.";

/// How logs name a caller; a token's own words are not in it but the subject's.
fn name(signed_in: &SignedIn) -> String {
    match &signed_in.who {
        Ok(caller) => caller.actor().0.to_string(),
        Err(_) => format!("{DOMAIN}:nobody"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_of_callers_are_read() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            asked(&headers)
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        for bad in ["", "S", "-1S", "1", "1x", "123456789S", "1 S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_librarys_errors_get_codes() {
        for (status, grpc, reason) in [
            (Status::out_of_range("too large"), Grpc::InvalidArgument, "PT-0203"),
            (Status::internal("failed to decode"), Grpc::InvalidArgument, "PT-0204"),
            (Status::unimplemented(""), Grpc::Unimplemented, "PT-0211"),
        ] {
            let response = complete(status.into_http::<Body>());
            let found = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(found.code(), grpc);
            let details = tonic_types::StatusExt::get_error_details(&found);
            assert_eq!(details.error_info().unwrap().reason, reason);
        }
    }
}
