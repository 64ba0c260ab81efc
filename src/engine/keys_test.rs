//! The key folder: what comes back, what is refused, and what is left of keys that are gone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use protem_core::charter::Charter;
use protem_core::event::{EndReason, Event, KeyPurpose, Target};
use protem_core::state::State;
use protem_verify::names::Words;
use protem_verify::time::Time;

use crate::engine::keys::KeyRing;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn keys_come_back_and_looser_modes_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("keys");
    let ring = KeyRing::open(&folder).unwrap();
    let key = ring.generate(KeyPurpose::Credential).unwrap();
    ring.published(key.id()).unwrap();
    let again = KeyRing::open(&folder).unwrap();
    let found = again.find(key.id()).unwrap();
    assert_eq!((found.public(), found.purpose()), (key.public(), KeyPurpose::Credential));
    assert!(!format!("{found:?}").contains(&BASE64URL_NOPAD.encode(&key.public())));

    let file = folder.join(format!("{}.key", key.id()));
    mode(&file, 0o640);
    assert!(KeyRing::open(&folder).is_err(), "a file that a group may read");
    mode(&file, 0o600);
    mode(&folder, 0o750);
    assert!(KeyRing::open(&folder).is_err(), "a folder that a group may enter");
    mode(&folder, 0o700);
    let other = folder.join("other.key");
    fs::rename(&file, &other).unwrap();
    assert!(KeyRing::open(&folder).is_err(), "a key under another key's name");
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_link_in_place_of_a_key_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("keys");
    let ring = KeyRing::open(&folder).unwrap();
    let key = ring.generate(KeyPurpose::Credential).unwrap();
    let (from, to) = (folder.join(format!("{}.new", key.id())), home.path().join("elsewhere"));
    fs::rename(&from, &to).unwrap();
    std::os::unix::fs::symlink(&to, folder.join(format!("{}.key", key.id()))).unwrap();
    assert!(KeyRing::open(&folder).is_err(), "others may change what a link points at");
}

#[test]
fn a_key_that_nobody_published_goes_and_what_the_journal_does_not_know_stays() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("keys");
    let ring = KeyRing::open(&folder).unwrap();
    let (one, other) = (KeyPurpose::Credential, KeyPurpose::Checkpoint);
    let (one, other) = (ring.generate(one).unwrap(), ring.generate(other).unwrap());
    assert_eq!(ring.spare(one.purpose()).unwrap().id(), one.id());
    ring.published(other.id()).unwrap();
    let again = KeyRing::open(&folder).unwrap();
    again.reconcile(&Charter::default()).unwrap();
    assert_eq!(files(&folder), [format!("{}.key", other.id())]);
    assert!(again.find(one.id()).is_none());
}

#[test]
fn of_a_removed_key_nothing_is_left_but_what_tells_its_checkpoints_from_forged_ones() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("keys");
    let ring = KeyRing::open(&folder).unwrap();
    let published = |purpose| {
        let key = ring.generate(purpose).unwrap();
        ring.published(key.id()).unwrap();
        key
    };
    let key = published(KeyPurpose::Credential);
    ring.remove(key.id()).unwrap();
    ring.remove(key.id()).unwrap();
    assert!(ring.find(key.id()).is_none());
    let key = published(KeyPurpose::Checkpoint);
    ring.retire(key.id()).unwrap();
    ring.retire(key.id()).unwrap();
    assert!(ring.find(key.id()).is_none());
    // One that was cut off leaves nothing at all: its word counts no more.
    let bad = published(KeyPurpose::Checkpoint);
    ring.lock_away(bad.id());
    ring.retire(bad.id()).unwrap();
    // Also when it was retired before, and a pass that began before the cut-off comes late.
    let late = published(KeyPurpose::Checkpoint);
    ring.retire(late.id()).unwrap();
    assert!(ring.is_former(late.id()) && ring.former().len() == 2);
    ring.lock_away(late.id());
    assert!(!ring.is_former(late.id()) && ring.former() == [key.public()]);
    for id in ring.locked_away() {
        ring.remove(&id).unwrap();
    }
    let left = files(&folder);
    assert!(matches!(left.as_slice(), [one] if one.ends_with(".former")), "{left:?}");
    let again = KeyRing::open(&folder).unwrap();
    assert_eq!(again.former(), ring.former());
    assert_eq!(again.former().len(), 1);
    assert!(again.of(KeyPurpose::Checkpoint).is_empty());
}

/// Killed between the cut-off and the removal, with the key still whole, or retired long ago and forgotten.
#[test]
fn attack_kill_9_between_a_cut_off_and_its_removal() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("keys");
    let ring = KeyRing::open(&folder).unwrap();
    let make = || ring.generate(KeyPurpose::Checkpoint).unwrap();
    let (whole, retired, good) = (make(), make(), make());
    for key in [&whole, &retired, &good] {
        ring.published(key.id()).unwrap();
    }
    ring.retire(retired.id()).unwrap();
    ring.retire(good.id()).unwrap();
    let mut state = State::new();
    for key in [&whole, &retired] {
        let (target, reason) = (Target::Key(key.id().clone()), EndReason::Revoked);
        let (note, forget_after) = (Words::default(), None);
        let cut = Event::CutOff { target, reason, note, forget_after };
        state.apply(Time::from_secs(1), &cut);
    }
    let again = KeyRing::open(&folder).unwrap();
    again.reconcile(&state.charter()).unwrap();
    assert_eq!(files(&folder), [format!("{}.former", good.id())]);
    assert_eq!((again.former(), again.of(KeyPurpose::Checkpoint).len()), (vec![good.public()], 0));
}
