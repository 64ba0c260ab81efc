//! The law of signing keys, case by case.
#![cfg(test)]

use protem_verify::names::KeyId;

use crate::command::Command;
use crate::event::KeyPurpose;
use crate::limits::SIGNING_KEYS_MAX;
use crate::refusal::Refusal;
use crate::testbed::{World, key, request, words};
use crate::verdict::Effect;

#[test]
fn a_cut_off_key_signs_no_more_and_its_grants_renew() {
    let mut world = World::new();
    let grant = world.granted(request("team/a", "t"));
    let k1 = KeyId::try_from("k1").unwrap();
    world.ok(Command::RetireKey { key: k1.clone(), compromised: true, note: words("leak") });
    world.refused(world.ask(request("team/b", "t"), Effect::Issue), &Refusal::NoSigningKey);
    world.refused(Command::ActivateKey { key: k1.clone() }, &Refusal::KeyState(k1));
    world.ok(Command::PublishKey(key("k2")));
    world.ok(Command::ActivateKey { key: KeyId::try_from("k2").unwrap() });
    assert_eq!(world.ok(world.renew(grant, Effect::Issue)).len(), 1, "at once: its token is void");
    world.wait(1_000);
    world.ok(Command::Tick);
    let cut = world.revocations();
    assert!(
        matches!(cut.as_slice(), [one] if one.forget_after.is_none()),
        "never forgotten: {cut:?}"
    );
}

fn record(world: &World, id: &str) -> crate::grant::KeyRecord {
    world.state.key(&KeyId::try_from(id).unwrap()).unwrap().clone()
}

#[test]
fn a_key_is_forgotten_when_the_last_token_it_signed_is_dead_and_not_before() {
    let mut world = World::new();
    let grant = world.granted(request("team/a", "t"));
    let exp = world.grant(grant).newest.as_ref().unwrap().exp;
    let (k1, k2) = (KeyId::try_from("k1").unwrap(), KeyId::try_from("k2").unwrap());
    world.refused(Command::ForgetKey { key: k1.clone() }, &Refusal::KeyState(k1.clone()));
    world.ok(Command::PublishKey(key("k2")));
    world.ok(Command::ActivateKey { key: k2.clone() });
    assert_eq!(world.state.signing(KeyPurpose::Credential), Some(&k2));
    let note = words("");
    world.ok(Command::RetireKey { key: k1.clone(), compromised: false, note });
    assert_eq!(record(&world, "k1").last_exp, exp);
    world.wait(exp.since(world.now).as_secs() - 1);
    world.ok(Command::Tick);
    world.refused(Command::ForgetKey { key: k1.clone() }, &Refusal::KeyState(k1.clone()));
    world.wait(2);
    assert_eq!(world.ok(Command::ForgetKey { key: k1.clone() }).len(), 1);
    assert_eq!(world.ok(Command::ForgetKey { key: k1.clone() }), vec![], "once");
    assert!(world.state.key(&k1).is_none());
}

#[test]
fn a_checkpoint_key_counts_a_while_after_it_was_retired() {
    let mut world = World::new();
    let checkpoint =
        |id: &str| crate::event::PublicKey { purpose: KeyPurpose::Checkpoint, ..key(id) };
    let c1 = KeyId::try_from("c1").unwrap();
    world.ok(Command::PublishKey(checkpoint("c1")));
    world.ok(Command::ActivateKey { key: c1.clone() });
    let note = words("");
    world.ok(Command::RetireKey { key: c1.clone(), compromised: false, note });
    world.wait(59);
    world.refused(Command::ForgetKey { key: c1.clone() }, &Refusal::KeyState(c1.clone()));
    world.wait(1);
    assert_eq!(world.ok(Command::ForgetKey { key: c1 }).len(), 1);
}

#[test]
fn a_cut_off_key_never_comes_back() {
    let mut world = World::new();
    let k1 = KeyId::try_from("k1").unwrap();
    let blank = Command::RetireKey { key: k1.clone(), compromised: true, note: words(" ") };
    world.refused(blank, &Refusal::ReasonRequired);
    world.ok(Command::RetireKey { key: k1.clone(), compromised: true, note: words("leak") });
    world.ok(Command::ForgetKey { key: k1.clone() });
    assert!(world.state.key(&k1).is_none());
    world.refused(Command::PublishKey(key("k1")), &Refusal::KeyState(k1));
}

#[test]
fn a_forgotten_key_can_be_cut_off() {
    let mut world = World::new();
    let k1 = KeyId::try_from("gone").unwrap();
    let retire =
        |compromised| Command::RetireKey { key: k1.clone(), compromised, note: words("leak") };
    world.refused(retire(false), &Refusal::UnknownKey(k1.clone()));
    assert_eq!(world.ok(retire(true)).len(), 1);
    assert_eq!(world.ok(retire(true)), vec![], "once");
    world.refused(Command::PublishKey(key("gone")), &Refusal::KeyState(k1));
}

#[test]
fn a_rotation_that_was_asked_for_is_remembered_and_changes_nothing_yet() {
    let mut world = World::new();
    let k1 = KeyId::try_from("k1").unwrap();
    let ask = |note: &str| Command::ReplaceKey { key: k1.clone(), note: words(note) };
    world.refused(ask(""), &Refusal::ReasonRequired);
    assert_eq!(world.ok(ask("drill")).len(), 1);
    assert_eq!(world.ok(ask("drill")), vec![], "once");
    assert!(record(&world, "k1").leaving);
    assert_eq!(world.state.signing(KeyPurpose::Credential), Some(&k1));
    world.ok(Command::PublishKey(key("k2")));
    let k2 = KeyId::try_from("k2").unwrap();
    let other = Command::ReplaceKey { key: k2.clone(), note: words("drill") };
    world.refused(other, &Refusal::KeyState(k2));
}

#[test]
fn more_keys_than_gateways_hold_are_not_published() {
    let mut world = World::new();
    for at in 1..SIGNING_KEYS_MAX {
        world.ok(Command::PublishKey(key(&format!("n{at}"))));
    }
    world.refused(Command::PublishKey(key("more")), &Refusal::TooManySigningKeys);
    assert_eq!(world.ok(Command::PublishKey(key("n1"))), vec![], "one that is known is no more");
}
