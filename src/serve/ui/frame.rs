//! What is around every page: its title, the ways to the others, who is signed in.

use std::borrow::Cow;

use askama::Template;
use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use protem_verify::codes::fault;

use crate::serve::ui::assets::{Assets, assets};
use crate::serve::ui::entered::Entered;

/// The frame that a template fills.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The page's name in the browser.
    pub title: String,
    /// Where in the navigation it is.
    pub tab: Tab,
    /// Who is signed in.
    pub who: Option<Who>,
    /// What the page follows while it is open; empty: nothing.
    pub live: Cow<'static, str>,
    /// After so many seconds a browser without script looks again; zero: never.
    pub again: u32,
    /// Style sheet, script and mark.
    pub assets: Assets,
}

/// Who is signed in.
#[derive(Clone, Debug)]
pub struct Who {
    /// Their name.
    pub name: String,
    /// Their groups.
    pub groups: String,
    /// What their forms hold.
    pub csrf: String,
}

/// A place in the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tab {
    /// None of them.
    Nowhere,
    /// What waits.
    Waiting,
    /// What was granted.
    Grants,
    /// Who and what there is.
    Inventory,
    /// Who enforces.
    Gateways,
    /// Emergencies.
    Reviews,
}

/// A place that is shown.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Which.
    pub tab: Tab,
    /// Where.
    pub path: &'static str,
    /// Its name.
    pub name: &'static str,
}

/// The navigation, in its order.
const WAYS: &[Way] = &[
    Way { tab: Tab::Waiting, path: "/ui/", name: "Waiting" },
    Way { tab: Tab::Grants, path: "/ui/grants", name: "Grants" },
    Way { tab: Tab::Inventory, path: "/ui/inventory", name: "Inventory" },
    Way { tab: Tab::Gateways, path: "/ui/gateways", name: "Gateways" },
    Way { tab: Tab::Reviews, path: "/ui/reviews", name: "Reviews" },
];

impl Frame {
    /// For somebody who is signed in.
    #[must_use]
    pub fn of(entered: &Entered, tab: Tab, title: impl Into<String>) -> Self {
        let person = &entered.person;
        let groups: Vec<&str> = person.groups.iter().map(|group| group.as_str()).collect();
        let who = Who {
            name: person.name.to_string(),
            groups: groups.join(", "),
            csrf: entered.session.csrf().to_owned(),
        };
        Self { who: Some(who), ..Self::for_anybody(tab, title) }
    }

    /// For anybody.
    #[must_use]
    pub fn for_anybody(tab: Tab, title: impl Into<String>) -> Self {
        Self { title: title.into(), tab, who: None, live: "".into(), again: 0, assets: assets() }
    }

    /// The same, which follows a topic while it is open.
    #[must_use]
    pub fn live(self, live: impl Into<Cow<'static, str>>) -> Self {
        Self { live: live.into(), ..self }
    }

    /// The same, which a browser without script loads again after so many seconds.
    #[must_use]
    pub fn again(self, again: u32) -> Self {
        Self { again, ..self }
    }

    /// The ways to the other pages; none before somebody signs in.
    #[must_use]
    pub fn ways(&self) -> &'static [Way] {
        if self.who.is_some() { WAYS } else { &[] }
    }

    /// Whether it is the place of the navigation that is shown.
    #[must_use]
    pub fn is(&self, tab: &Tab) -> bool {
        self.tab == *tab
    }

    /// The token of forms; none when nobody is signed in.
    #[must_use]
    pub fn csrf(&self) -> &str {
        self.who.as_ref().map_or("", |who| who.csrf.as_str())
    }
}

/// A page as an answer.
#[must_use]
pub fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(why) => {
            tracing::error!(code = fault::STORE.id, %why, "a page cannot be shown");
            (StatusCode::INTERNAL_SERVER_ERROR, "this page cannot be shown\n").into_response()
        }
    }
}
