//! What went wrong, as a page: what, why with its code, and what helps.

use askama::Template;
use axum::response::Response;
use http::StatusCode;
use protem_verify::codes::{Code, find};
use tonic::{Code as Grpc, Status};
use tonic_types::StatusExt;

use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page as show};
use crate::serve::ui::site::Site;
use crate::serve::ui::words::sentence;

/// The page.
#[derive(Template)]
#[template(path = "problem.html", config = ".askama.toml")]
struct ProblemPage {
    frame: Frame,
    heading: String,
    what: String,
    help: String,
    code: String,
    /// Where to look again, if anywhere.
    again: String,
}

/// What a service refused, as it is.
#[must_use]
pub fn page(_: &Site, entered: Option<&Entered>, status: &Status) -> Response {
    with_way(entered, status, "")
}

/// The same, with a page to look at again.
#[must_use]
pub fn with_way(entered: Option<&Entered>, status: &Status, again: &str) -> Response {
    let details = status.get_error_details();
    let id = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let code: Option<Code> = find(&id);
    let heading = sentence(code.map_or("something went wrong", |code| code.title));
    let frame = match entered {
        Some(entered) => Frame::of(entered, Tab::Nowhere, &*heading),
        None => Frame::for_anybody(Tab::Nowhere, &*heading),
    };
    let page = ProblemPage {
        frame,
        heading,
        what: sentence(status.message()),
        help: code.map(|code| sentence(code.remedy)).unwrap_or_default(),
        code: id,
        again: again.to_owned(),
    };
    show(http(status.code()), &page)
}

/// There is nothing at this address, or nothing that this person may see.
#[must_use]
pub fn nothing(entered: Option<&Entered>) -> Response {
    let heading = "There is nothing here".to_owned();
    let frame = match entered {
        Some(entered) => Frame::of(entered, Tab::Nowhere, &*heading),
        None => Frame::for_anybody(Tab::Nowhere, &*heading),
    };
    let what = "There is no such page, or nothing that you may see at it.".to_owned();
    let (help, code, again) = (String::new(), String::new(), String::new());
    show(StatusCode::NOT_FOUND, &ProblemPage { frame, heading, what, help, code, again })
}

/// A link to something that only a form does.
#[must_use]
pub fn wrong_method() -> Response {
    let heading = "A link does nothing here".to_owned();
    let frame = Frame::for_anybody(Tab::Nowhere, &*heading);
    let what = "Only the form of a page decides.".to_owned();
    let (help, code, again) = (String::new(), String::new(), String::new());
    show(StatusCode::METHOD_NOT_ALLOWED, &ProblemPage { frame, heading, what, help, code, again })
}

/// A service's answer as a page's.
#[must_use]
pub fn http(grpc: Grpc) -> StatusCode {
    match grpc {
        Grpc::InvalidArgument | Grpc::OutOfRange => StatusCode::BAD_REQUEST,
        Grpc::Unauthenticated => StatusCode::UNAUTHORIZED,
        Grpc::PermissionDenied => StatusCode::FORBIDDEN,
        Grpc::NotFound | Grpc::Unimplemented => StatusCode::NOT_FOUND,
        Grpc::FailedPrecondition | Grpc::AlreadyExists | Grpc::Aborted => StatusCode::CONFLICT,
        Grpc::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::Cancelled => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Grpc::Ok | Grpc::Unknown | Grpc::Internal | Grpc::DataLoss => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}
