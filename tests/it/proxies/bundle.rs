//! What the brokers of these tests know: one gateway before two APIs, and workloads whose credentials differ in two numbers.

/// Files and texts, as `policies/` would hold them.
pub const FILES: &[(&str, &str)] = &[
    ("catalog.toml", CATALOG),
    ("identities.toml", IDENTITIES),
    ("people.toml", PEOPLE),
    ("rules.cedar", RULES),
];

/// Gets credentials that a view of ten seconds may accept.
pub const STEADY: &str = "load/steady";
/// Gets credentials that only a view of two seconds may accept: the least there is.
pub const BRIEF: &str = "load/brief";
/// Gets credentials that live ten seconds: the least there is.
pub const FLEETING: &str = "load/fleeting";
/// A person who may do everything that people do.
pub const OPERATOR: &str = "olga:operators";
/// The gateway before all resources.
pub const GATEWAY: &str = "edge";
/// The API behind the proxies.
pub const ORDERS: &str = "orders-api";
/// Another API behind the same gateway.
pub const CRM: &str = "crm-api";
/// An API that cannot check tokens, to which the gate adds a secret.
pub const LEGACY: &str = "legacy-crm";

const CATALOG: &str = r#"
[tier.steady]
max_lifetime     = "2h"
default_lifetime = "1h"
credential       = "30m"
max_staleness    = "10s"
active_max       = 1000
rate             = "1000/s"
pending_max      = 10
[tier.brief]
max_lifetime     = "2h"
default_lifetime = "1h"
credential       = "30m"
max_staleness    = "2s"
active_max       = 1000
rate             = "1000/s"
pending_max      = 10
[tier.fleeting]
max_lifetime     = "2h"
default_lifetime = "1h"
credential       = "10s"
max_staleness    = "10s"
active_max       = 1000
rate             = "1000/s"
pending_max      = 10

[class.read]
risk = "low"

[resource.orders-api]
audience = "https://orders.example"
purpose  = "Orders of the web shop"
owner    = { business = "group:operators", technical = "group:operators" }
[resource.orders-api.scope."orders:read"]
purpose    = "Read orders"
class      = "read"
operations = ["GET /v1/orders", "GET /v1/orders/{id}", "POST /shop.v1.Orders/List"]
[resource.orders-api.scope."orders:write"]
purpose    = "Write orders"
class      = "read"
operations = ["PUT /v1/orders/{id}", "DELETE /v1/orders/{id}", "POST /shop.v1.Orders/Delete"]

[resource.crm-api]
audience = "https://crm.example"
purpose  = "Customers of the web shop"
owner    = { business = "group:operators", technical = "group:operators" }
[resource.crm-api.scope."crm:read"]
purpose    = "Read customers"
class      = "read"
operations = ["GET /v1/orders"]

[resource.legacy-crm]
audience = "https://legacy.example"
purpose  = "Customers of the web shop, in an API that cannot check tokens"
owner    = { business = "group:operators", technical = "group:operators" }
inject   = { header = "X-Api-Key", secret = "crm-key" }
[resource.legacy-crm.scope."customers:read"]
purpose    = "Read customers"
class      = "read"
operations = ["GET /api/customers/{id}"]
[secret.crm-key]
purpose  = "Opens the API that cannot check tokens"
resource = "legacy-crm"
owner    = { business = "group:operators", technical = "group:operators" }
created  = 2026-09-04
rotate_every = "90d"
expires  = 2099-01-01
revoke   = "vendor console"
status   = "managed"

[gateway.edge]
login     = { spiffe = "spiffe://shop.example/edge" }
resources = ["orders-api", "crm-api", "legacy-crm"]
"#;

const IDENTITIES: &str = r#"
[identity."load/steady"]
purpose = "Load"
owner   = { business = "group:operators", technical = "group:operators" }
tier    = "steady"
team    = "load"
review_by = 2099-01-01
[identity."load/brief"]
purpose = "Load"
owner   = { business = "group:operators", technical = "group:operators" }
tier    = "brief"
team    = "load"
review_by = 2099-01-01
[identity."load/fleeting"]
purpose = "Load"
owner   = { business = "group:operators", technical = "group:operators" }
tier    = "fleeting"
team    = "load"
review_by = 2099-01-01
"#;

const PEOPLE: &str = r#"
[group.operators]
claims = { groups = "operators" }
"#;

const RULES: &str = r#"
@id("load-reads-and-writes")
permit (principal in Team::"load", action == Action::"issue", resource in Class::"read");
@id("operators-stop")
permit (principal in Group::"operators", action == Action::"revoke", resource in Broker::"protem");
@id("operators-look")
permit (principal in Group::"operators", action == Action::"view", resource in Broker::"protem");
@id("operators-rule")
permit (principal in Group::"operators", action == Action::"administer", resource == Broker::"protem");
"#;
