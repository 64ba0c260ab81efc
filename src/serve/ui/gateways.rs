//! *Gateways*: who enforces, how old each one's view is, and how long it takes to hear of a revocation.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use protem_proto::wire::v1;
use protem_proto::wire::v1::governance_service_server::GovernanceService;
use protem_verify::time::Time;

use crate::serve::ui::chart::Chart;
use crate::serve::ui::entered::Entered;
use crate::serve::ui::frame::{Frame, Tab, page};
use crate::serve::ui::problem;
use crate::serve::ui::receipts::short;
use crate::serve::ui::site::Site;
use crate::serve::ui::words::{Moment, brief, count, span};

#[derive(Template)]
#[template(path = "gateways.html", config = ".askama.toml")]
struct GatewaysPage {
    frame: Frame,
    gateways: Vec<Shown>,
    chart: Chart,
    head: u64,
}

/// A gateway of the catalog.
struct Shown {
    name: String,
    resources: String,
    /// None: it never came.
    instances: Vec<Instance>,
}

/// One of its processes.
struct Instance {
    name: String,
    /// One word: `fresh`, `silent`.
    state: String,
    tone: &'static str,
    /// By its own word.
    age: String,
    acknowledged: u64,
    reported: Option<Moment>,
    dropped: String,
    /// Another live process holds the same instance id.
    twin: bool,
}

/// The page.
///
/// # Errors
/// When the person may not look at the broker.
pub async fn list(State(site): State<Arc<Site>>, entered: Entered) -> Result<Response, Response> {
    let answer = site.governance.list_gateways(entered.ask(v1::ListGatewaysRequest {})).await;
    let answer = answer.map_err(|no| problem::page(&site, Some(&entered), &no))?;
    let all = answer.into_inner().gateways;
    let now = site.broker.now();
    let bundle = site.broker.bundle();
    let mut gateways: Vec<Shown> = Vec::new();
    for one in &all {
        if gateways.last().is_none_or(|last| last.name != one.name) {
            let known = bundle.gateways().iter().find(|(name, _)| name.as_str() == one.name);
            let resources = known.map(|(_, of)| &of.resources).into_iter().flatten();
            let resources: Vec<String> = resources.map(ToString::to_string).collect();
            let (name, resources) = (one.name.clone(), resources.join(", "));
            gateways.push(Shown { name, resources, instances: Vec::new() });
        }
        let came = !one.instance.is_empty() || one.connected;
        if let Some(last) = gateways.last_mut().filter(|_| came) {
            last.instances.push(instance(one, now));
        }
    }
    let shown = GatewaysPage {
        frame: Frame::of(&entered, Tab::Gateways, "Gateways").live("gateways"),
        gateways,
        chart: chart(&all),
        head: site.broker.head().seq.0,
    };
    Ok(page(StatusCode::OK, &shown))
}

fn instance(one: &v1::Gateway, now: Time) -> Instance {
    let (state, tone) = match (one.connected, one.state.as_str()) {
        (false, _) => ("silent".to_owned(), "bad"),
        (true, "FRESH") => ("fresh".to_owned(), "good"),
        (true, "STALE") => ("stale".to_owned(), "bad"),
        (true, "") => ("connected".to_owned(), "warn"),
        (true, other) => (other.to_ascii_lowercase(), "warn"),
    };
    Instance {
        name: short(&one.instance),
        state,
        tone,
        age: match &one.view_age {
            Some(age) => brief(span(Some(age))),
            None => "not told".to_owned(),
        },
        acknowledged: one.acknowledged,
        reported: one.last_report.map(|at| Moment::of(&at, now)),
        dropped: match one.usage_dropped {
            0 => String::new(),
            dropped => count(dropped, "call was not counted", "calls were not counted"),
        },
        twin: one.twin,
    }
}

/// The lags of those that have acknowledged anything.
fn chart(all: &[v1::Gateway]) -> Chart {
    let lags = all.iter().filter_map(|one| {
        let (p50, p99) = (one.lag_p50.as_ref()?, one.lag_p99.as_ref()?);
        let several = all.iter().filter(|other| other.name == one.name).count() > 1;
        let label = match several {
            true => format!("{} {}", one.name, short(&one.instance)),
            false => one.name.clone(),
        };
        Some((label, span(Some(p50)), span(Some(p99))))
    });
    Chart::of(&lags.collect::<Vec<_>>())
}
