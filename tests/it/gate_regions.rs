//! One gate, two brokers: each credential is checked by its own issuer's view, and one region's outage is its own.

use std::fs;

use crate::bundle::{FILES, GATEWAY, OPERATOR};
use crate::gate::{Gate, credential};
use crate::process::Broker;

#[test]
fn each_region_is_stale_for_itself_and_no_view_vouches_for_another() {
    let (mut east, west, foreign) =
        (Broker::with_bundle(FILES), Broker::with_bundle(FILES), Broker::with_bundle(FILES));
    let part = |broker: &Broker| {
        let (url, token) = (broker.url(), broker.token_file(GATEWAY));
        format!(
            "[[broker]]\nurl = \"{url}\"\nissuer = \"{url}\"\ntoken_file = \"{}\"\n",
            token.display()
        )
    };
    let home = west.home();
    let config = home.join("gate.toml");
    let text = format!(
        "name = \"{GATEWAY}\"\nproxy = \"nginx\"\nlisten = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\nstate = \"{}\"\n{}{}",
        home.join("gate-state").display(),
        part(&east),
        part(&west),
    );
    fs::write(&config, text).unwrap();
    let mut command = west.cli();
    command.args(["gate", "-o", "json", "--config"]).arg(&config);
    let gate = Gate::spawn(command, home.join("gate.log"));
    gate.until("both are fresh", |gate| gate.probe("/readyz").body.matches("FRESH").count() == 2);
    let says = |token: &str| gate.nginx("GET", "/v1/orders", token).verdict();
    let (of_east, east_grant) = credential(&east, "t-1", "orders:read");
    let (of_west, _) = credential(&west, "t-1", "orders:read");
    let (of_nobody, _) = credential(&foreign, "t-1", "orders:read");
    assert_eq!((says(&of_east).0, says(&of_west).0), (200, 200));
    assert_eq!(says(&of_nobody), (401, "PT-0405".to_owned()));
    assert_eq!(says("a.b.c"), (401, "PT-0402".to_owned()));
    // A key above all that a view has seen may be on its way to it (503): the west comes to know more than that.
    let (ended, grant) = credential(&west, "t-0", "orders:read");
    west.run(OPERATOR, &["revoke", "--grant", &grant, "--note", "over"]).expect(0);
    gate.until("the west is ahead", |_| says(&ended) == (401, "PT-0410".to_owned()));
    // A word about the issuer chooses a view whose keys did not sign it.
    let parts: Vec<&str> = of_nobody.split('.').collect();
    let decoded = data_encoding::BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap();
    let claims = String::from_utf8(decoded).unwrap();
    let renamed = claims.replace(&foreign.url(), &west.url());
    assert_ne!(renamed, claims);
    let renamed = data_encoding::BASE64URL_NOPAD.encode(renamed.as_bytes());
    assert_eq!(says(&format!("{}.{renamed}.{}", parts[0], parts[2])).0, 401);
    // What one region ends, ends there.
    east.run(OPERATOR, &["revoke", "--grant", &east_grant, "--note", "over"]).expect(0);
    gate.until("the east knows", |_| says(&of_east) == (401, "PT-0410".to_owned()));
    assert_eq!(says(&of_west).0, 200);
    let (of_east, _) = credential(&east, "t-2", "orders:read");
    assert_eq!(says(&of_east).0, 200);
    east.kill();
    gate.until("the east is stale", |_| says(&of_east) == (503, "PT-0417".to_owned()));
    assert_eq!(says(&of_west).0, 200);
    assert_eq!(gate.probe("/readyz").status, 200, "the west still needs it");
    east.start();
    gate.until("the east is back", |_| says(&of_east).0 == 200);
}
