//! The bundle that the end-to-end tests run under: one team without limits that matter, one with narrow ones.

/// Files and texts, as `policies/` would hold them.
pub const FILES: &[(&str, &str)] = &[
    ("catalog.toml", CATALOG),
    ("identities.toml", IDENTITIES),
    ("people.toml", PEOPLE),
    ("rules.cedar", RULES),
];

/// Workloads of the team without limits that matter.
pub const WORKERS: [&str; 4] = ["load/w0", "load/w1", "load/w2", "load/w3"];
/// Workloads that may ask five times a second, hold eight grants and let two requests wait.
pub const NARROW: [&str; 3] = ["narrow/n0", "narrow/n1", "narrow/n2"];
/// A person who may do everything that people do.
pub const OPERATOR: &str = "olga:operators";
/// The enforcing gateway, in front of all resources.
pub const GATEWAY: &str = "edge";
/// The resource of most tests.
pub const RESOURCE: &str = "orders-api";

const CATALOG: &str = r#"
[tier.wide]
max_lifetime     = "2h"
default_lifetime = "1h"
credential       = "30m"
max_staleness    = "10s"
active_max       = 1000000
rate             = "100000/s"
pending_max      = 100
[tier.narrow]
max_lifetime     = "1h"
default_lifetime = "15m"
credential       = "5m"
max_staleness    = "5s"
active_max       = 8
rate             = "5/s"
pending_max      = 2

[class.read]
risk = "low"
[class.money]
risk = "high"
max_lifetime = "30m"

[resource.orders-api]
audience = "https://orders.example"
purpose  = "Orders of the web shop"
owner    = { business = "group:leads", technical = "group:oncall" }
[resource.orders-api.scope."orders:read"]
purpose    = "Read orders"
class      = "read"
operations = ["GET /v1/orders", "GET /v1/orders/{id}"]
[resource.orders-api.scope."orders:write"]
purpose    = "Write orders"
class      = "read"
operations = ["PUT /v1/orders/{id}"]
[resource.orders-api.scope."orders:refund"]
purpose    = "Refund an order"
class      = "money"
operations = ["POST /v1/orders/{id}/refund"]

[gateway.edge]
login     = { spiffe = "spiffe://shop.example/edge" }
resources = ["orders-api"]
"#;

const IDENTITIES: &str = r#"
[identity."load/w0"]
purpose = "Load"
owner   = { business = "group:leads", technical = "group:oncall" }
tier    = "wide"
team    = "load"
review_by = 2099-01-01
[identity."load/w1"]
purpose = "Load"
owner   = { business = "group:leads", technical = "group:oncall" }
tier    = "wide"
team    = "load"
review_by = 2099-01-01
[identity."load/w2"]
purpose = "Load"
owner   = { business = "group:leads", technical = "group:oncall" }
tier    = "wide"
team    = "load"
review_by = 2099-01-01
[identity."load/w3"]
purpose = "Load"
owner   = { business = "group:leads", technical = "group:oncall" }
tier    = "wide"
team    = "load"
review_by = 2099-01-01
[identity."narrow/n0"]
purpose = "Floods"
owner   = { business = "group:leads", technical = "group:oncall" }
tier    = "narrow"
team    = "load"
review_by = 2099-01-01
[identity."narrow/n1"]
purpose = "Floods"
owner   = { business = "group:leads", technical = "group:oncall" }
tier    = "narrow"
team    = "load"
review_by = 2099-01-01
[identity."narrow/n2"]
purpose = "Floods"
owner   = { business = "group:leads", technical = "group:oncall" }
tier    = "narrow"
team    = "load"
review_by = 2099-01-01
"#;

const PEOPLE: &str = r#"
[group.leads]
claims = { groups = "leads" }
[group.oncall]
claims = { groups = "oncall" }
[group.operators]
claims = { groups = "operators" }
"#;

const RULES: &str = r#"
@id("load-reads-and-writes")
permit (principal in Team::"load", action == Action::"issue", resource in Class::"read");

@id("refunds-need-a-person")
@approvals("1")
permit (principal in Team::"load", action == Action::"request", resource == Scope::"orders-api#orders:refund");

@id("oncall-approves-orders")
permit (principal in Group::"oncall", action == Action::"approve", resource in Resource::"orders-api");

@id("operators-stop")
permit (principal in Group::"operators", action == Action::"revoke", resource in Broker::"protem");
@id("operators-look")
permit (principal in Group::"operators", action == Action::"view", resource in Broker::"protem");
@id("operators-rule")
permit (principal in Group::"operators", action == Action::"administer", resource == Broker::"protem");
"#;
