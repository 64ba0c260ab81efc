//! What a caller may know before it signs in: where people sign in, and for whom a job's token must be.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::engine::broker::Broker;
use crate::policy::bundle::Bundle;
use crate::policy::catalog::{Issuer, Subjects};
use crate::serve::oidc::PeopleIssuer;

/// Where it is served.
pub const PATH: &str = "/.well-known/protem";

/// Answers what [`document`] says of the bundle in force.
pub async fn welcome(State(broker): State<Broker>) -> Response {
    let body = document(broker.issuer(), &broker.bundle()).to_string();
    // Not kept: a bundle that moves its people to another issuer counts at once.
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
}

/// Nothing here is a secret: a sign-in page shows the same. Issuers of workloads are not listed, as their addresses tell of
/// the inside of a network; the audience is what their tokens must be asked for.
fn document(issuer: &str, bundle: &Bundle) -> Value {
    let of = bundle.issuers().values().filter(|known| known.subjects == Subjects::Workloads);
    let audiences: BTreeSet<&str> = of.map(|known| known.audience.as_str()).collect();
    json!({ "issuer": issuer, "people": people(bundle), "audiences": audiences })
}

/// Where people sign in. The client that they sign in as is the audience that their tokens must hold (OpenID Connect Core §2).
#[must_use]
pub fn people(bundle: &Bundle) -> Vec<PeopleIssuer> {
    let of = bundle.issuers().values().filter(|known| known.subjects == Subjects::People);
    of.map(|known| person_issuer(bundle, known)).collect()
}

fn person_issuer(bundle: &Bundle, issuer: &Issuer) -> PeopleIssuer {
    let groups = bundle.people().groups.values().flat_map(|group| group.claims.keys());
    let claims: BTreeSet<&str> =
        issuer.name_claim.as_deref().into_iter().chain(groups.map(String::as_str)).collect();
    PeopleIssuer {
        name: issuer.name.to_string(),
        issuer: issuer.url.clone(),
        client_id: issuer.audience.clone(),
        claims: claims.into_iter().map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::bundle::Load;
    use crate::policy::example::example;

    #[test]
    fn it_tells_where_people_sign_in_and_no_more_than_an_audience_of_workloads() {
        let bundle = Bundle::load(example(), Load::Activate, false).unwrap();
        let said = document("http://127.0.0.1:1", &bundle);
        let corp = &said["people"][0];
        assert_eq!((&corp["name"], &corp["client_id"]), (&json!("corp"), &json!("protem-people")));
        assert_eq!(corp["issuer"], "https://idp.shop.example");
        assert_eq!(corp["claims"], json!(["email", "groups"]));
        assert_eq!(said["audiences"], json!(["https://protem.shop.example"]));
        assert!(!said.to_string().contains("githubusercontent"));
    }
}
