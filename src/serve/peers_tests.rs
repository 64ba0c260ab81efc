//! Who holds connections, who has to make room for whom, and that nothing is counted twice or forgotten.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::policy::bundle::{Bundle, Load};
use crate::policy::example::example;
use crate::policy::login::{Caller, Login};
use crate::serve::peers::{ConnectionLimits, Peer, Peers};

/// An identity of the tier may have two: one, and one for the grant that it may hold.
const FEW: ConnectionLimits = ConnectionLimits {
    connections: 10,
    reserved: 2,
    strangers: 2,
    stranger_least: Duration::ZERO,
    of_identity: 1,
    of_gateway: 3,
    of_person: 1,
};

static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| {
    let edit = |(name, text): &(Arc<str>, Arc<[u8]>)| -> (Arc<str>, Arc<[u8]>) {
        let text = String::from_utf8(text.to_vec()).unwrap();
        let text = text.replace("active_max       = 1000", "active_max = 1");
        (Arc::clone(name), text.into_bytes().into())
    };
    let files = example().iter().map(edit).collect();
    Bundle::load(files, Load::Activate, true).unwrap()
});

fn caller(login: Login) -> Caller {
    let principal = BUNDLE.who(&login).unwrap();
    Caller { principal, login: Arc::new(login) }
}

fn identity(name: &str) -> Caller {
    caller(Login::dev_identity(name))
}

fn gateway() -> Caller {
    caller(Login::dev_gateway("edge-eu-1"))
}

fn operator() -> Caller {
    caller(Login::dev_person("olga", &["operators"]))
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 1))
}

/// Lets somebody in where there is room.
async fn come(peers: &Arc<Peers>, last: u8) -> Arc<Peer> {
    happens(peers.admit(address(last))).await.unwrap()
}

/// The code of a refusal; empty: it is signed in.
fn signs_in(peer: &Peer, who: &Caller) -> &'static str {
    peer.sign_in(who, &BUNDLE).map_or_else(|problem| problem.code().id, |()| "")
}

async fn happens<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.unwrap()
}

/// Whether it is not done, at least not soon.
async fn waits<T>(what: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(30), what).await.is_err()
}

#[tokio::test]
async fn strangers_of_one_address_are_few_until_they_sign_in() {
    let peers = Peers::new(FEW);
    let first = come(&peers, 1).await;
    let _second = come(&peers, 1).await;
    assert!(happens(peers.admit(address(1))).await.is_none());
    let _other = come(&peers, 2).await;
    let agent = identity("payments/agent");
    assert_eq!((signs_in(&first, &agent), signs_in(&first, &agent)), ("", ""));
    let third = come(&peers, 1).await;
    assert!(happens(peers.admit(address(1))).await.is_none());
    drop(third);
    let _fourth = come(&peers, 1).await;
}

#[tokio::test]
async fn attack_strangers_from_a_whole_network() {
    let peers = Peers::new(FEW);
    let from = |text: &str| happens(peers.admit(SocketAddr::new(text.parse().unwrap(), 1)));
    let first = from("2001:db8:1:2::1").await.unwrap();
    let _second = from("2001:db8:1:2:3:4:5:6").await.unwrap();
    assert!(from("2001:db8:1:2:ffff::").await.is_none());
    assert!(from("2001:db8:1:3::1").await.is_some());
    assert_eq!(signs_in(&first, &identity("payments/agent")), "");
    assert!(from("2001:db8:1:2:ffff::").await.is_some());
}

/// Row 56: each has its own, and gets them back.
#[tokio::test]
async fn attack_one_caller_takes_every_connection() {
    let peers = Peers::new(FEW);
    let (agent, other) = (identity("payments/agent"), identity("payments/reconciler"));
    let (first, second) = (come(&peers, 1).await, come(&peers, 2).await);
    assert_eq!((signs_in(&first, &agent), signs_in(&second, &agent)), ("", ""));
    let third = come(&peers, 3).await;
    assert_eq!(signs_in(&third, &agent), "PT-0214");
    assert!(!third.is_signed_in());
    happens(third.refused()).await; // it is let go
    let fourth = come(&peers, 4).await;
    assert_eq!(signs_in(&fourth, &other), "", "each has its own");
    for last in 6..20 {
        assert_eq!(signs_in(&*come(&peers, last).await, &gateway()), "", "given back at once");
    }
    let held = [come(&peers, 6).await, come(&peers, 7).await, come(&peers, 8).await];
    assert!(held.iter().all(|one| signs_in(one, &gateway()).is_empty()));
    let person = come(&peers, 5).await;
    assert_eq!(signs_in(&person, &gateway()), "PT-0214");
    assert_eq!(signs_in(&person, &operator()), "");
    drop(first);
    assert_eq!(signs_in(&*come(&peers, 9).await, &agent), "", "a place is given back");
}

/// A proxy's connections carry one caller after the other.
#[tokio::test]
async fn a_connection_is_its_last_callers() {
    let peers = Peers::new(FEW);
    let (agent, other) = (identity("payments/agent"), identity("payments/reconciler"));
    let mut all = Vec::new();
    for last in 1..=4 {
        all.push(come(&peers, last).await);
    }
    for one in &all[..2] {
        assert_eq!((signs_in(one, &agent), signs_in(one, &other)), ("", ""));
    }
    for one in &all[2..] {
        assert_eq!(signs_in(one, &agent), "", "the first two are another's by now");
    }
    // Who has all that it may calls on others' all the same: that costs no connection more.
    assert_eq!(signs_in(&all[0], &agent), "");
    assert!(waits(all[0].refused()).await);
    let more = come(&peers, 5).await;
    assert_eq!((signs_in(&more, &other), signs_in(&more, &agent)), ("PT-0214", "PT-0214"));
    // It stayed the other's, who has two of them.
    all.remove(0);
    assert_eq!(signs_in(&more, &other), "");
    drop((all, more));
    assert!(peers.is_empty());
}

#[tokio::test]
async fn workloads_leave_room_for_gateways_and_people() {
    let peers = Peers::new(ConnectionLimits { connections: 4, ..FEW });
    let (agent, other) = (identity("payments/agent"), identity("payments/reconciler"));
    let mut all = Vec::new();
    for last in 1..=4 {
        all.push(come(&peers, last).await);
    }
    assert_eq!((signs_in(&all[0], &agent), signs_in(&all[1], &other)), ("", ""));
    assert_eq!(signs_in(&all[2], &other), "PT-0214", "two are kept");
    happens(all[2].refused()).await;
    // Whoever is let go makes room for a gateway that comes back.
    let back = happens(async {
        let (back, ()) = tokio::join!(peers.admit(address(5)), async {
            all[2].evicted().await;
            drop(all.remove(2));
        });
        back.unwrap()
    });
    let back = back.await;
    assert_eq!(signs_in(&back, &gateway()), "");
    assert_eq!(signs_in(&all[2], &operator()), "");
    assert_eq!(signs_in(&all[0], &other), "", "it has its place");
    // On a person's connection a workload may call, but it stays the person's.
    assert_eq!(signs_in(&all[2], &agent), "");
    drop((all, back));
    assert!(peers.is_empty());
}

#[tokio::test]
async fn beyond_the_cap_who_comes_waits_until_one_leaves() {
    let peers = Peers::new(ConnectionLimits { connections: 1, reserved: 0, ..FEW });
    let only = come(&peers, 1).await;
    assert!(waits(only.evicted()).await, "nobody wants its place");
    assert_eq!(signs_in(&only, &identity("payments/agent")), "");
    let mut next = pin!(peers.admit(address(2)));
    assert!(waits(next.as_mut()).await);
    assert!(waits(only.evicted()).await, "nobody who signed in makes room");
    drop(only);
    drop(happens(next).await);
    assert!(peers.is_empty());
}

/// Row 56: strangers make room, who came first first, and nobody else.
#[tokio::test]
async fn attack_strangers_from_everywhere() {
    let peers = Peers::new(ConnectionLimits { connections: 3, ..FEW });
    let known = come(&peers, 1).await;
    assert_eq!(signs_in(&known, &gateway()), "");
    let (first, second) = (come(&peers, 2).await, come(&peers, 3).await);
    let mut next = pin!(peers.admit(address(4)));
    assert!(waits(next.as_mut()).await);
    assert!(waits(second.evicted()).await && waits(known.evicted()).await);
    happens(first.evicted()).await;
    drop(first);
    let third = happens(next).await.unwrap();
    assert!(waits(second.evicted()).await, "nobody wants its place any more");
    let mut next = pin!(peers.admit(address(5)));
    assert!(waits(next.as_mut()).await);
    assert!(waits(third.evicted()).await);
    happens(second.evicted()).await;
    // One address's strangers cannot have others sent away for more of them.
    let few = Peers::new(ConnectionLimits { connections: 2, ..FEW });
    let all = [come(&few, 1).await, come(&few, 1).await];
    assert!(happens(few.admit(address(1))).await.is_none());
    assert!(waits(all[0].evicted()).await);
}

#[tokio::test]
async fn who_is_signing_in_makes_room_after_all_others() {
    let peers = Peers::new(ConnectionLimits { connections: 2, ..FEW });
    let (first, second) = (come(&peers, 1).await, come(&peers, 2).await);
    let calls = (first.signing_in(), first.signing_in());
    let mut next = pin!(peers.admit(address(3)));
    assert!(waits(next.as_mut()).await);
    drop(calls.0);
    assert!(waits(first.evicted()).await, "a call is signing in");
    happens(second.evicted()).await;
    drop(second);
    let third = happens(next).await.unwrap();
    // It did not count: it is who came first again, although another one was told.
    let signing_in = third.signing_in();
    let mut next = pin!(peers.admit(address(4)));
    assert!(waits(next.as_mut()).await);
    drop((calls.1, signing_in));
    happens(async {
        tokio::select! {
            () = first.evicted() => {}
            () = third.evicted() => panic!("who came later makes room"),
        }
    })
    .await;
}

/// Who signs in at the moment in which it is told to make room stays, and the next one goes.
#[tokio::test]
async fn who_signs_in_when_told_to_make_room_stays() {
    let peers = Peers::new(ConnectionLimits { connections: 2, ..FEW });
    let (first, second) = (come(&peers, 1).await, come(&peers, 2).await);
    let mut next = pin!(peers.admit(address(3)));
    assert!(waits(next.as_mut()).await);
    assert_eq!(signs_in(&first, &gateway()), "");
    assert!(waits(first.evicted()).await);
    // Whoever waits looks again.
    assert!(waits(next.as_mut()).await);
    happens(second.evicted()).await;
    drop(second);
    let third = happens(next).await.unwrap();
    // Signed in after it said that it goes: it goes, and is counted until then.
    let mut next = pin!(peers.admit(address(4)));
    assert!(waits(next.as_mut()).await);
    happens(third.evicted()).await;
    assert_eq!(signs_in(&third, &gateway()), "");
    assert!(waits(next.as_mut()).await);
    drop(third);
    drop((happens(next).await, first));
    assert!(peers.is_empty());
}

#[tokio::test]
async fn a_stranger_has_time_to_sign_in() {
    let hour = Duration::from_secs(3_600);
    let limits = ConnectionLimits { connections: 1, stranger_least: hour, ..FEW };
    let peers = Peers::new(limits);
    let only = come(&peers, 1).await;
    let mut next = pin!(peers.admit(address(2)));
    assert!(waits(next.as_mut()).await);
    assert!(waits(only.evicted()).await);
}

/// Whatever happens to connections in whatever order, each counts once, as its last caller's.
#[tokio::test]
async fn nothing_is_counted_twice_or_forgotten() {
    let limits = ConnectionLimits { connections: 12, strangers: 100, ..FEW };
    let peers = Peers::new(limits);
    let (agent, other) = (identity("payments/agent"), identity("payments/reconciler"));
    let callers = [agent, other, gateway(), operator()];
    let (mut open, mut chance) = (Vec::<Arc<Peer>>::new(), 1_u64);
    for _ in 0..5_000 {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let (what, which) = (chance % 4, usize::try_from(chance >> 8).unwrap());
        if what == 0 && open.len() < 12 {
            open.push(come(&peers, 1).await);
        } else if what == 1 && !open.is_empty() {
            open.swap_remove(which % open.len());
        } else if !open.is_empty() {
            let peer = &open[which % open.len()];
            let _signing_in = peer.signing_in();
            signs_in(peer, &callers[(which >> 8) % 4]);
        }
        let signed_in = open.iter().filter(|one| one.is_signed_in()).count();
        assert_eq!(peers.open(), open.len());
        assert!(signed_in <= 2 + 2 + 3 + 1);
    }
    drop(open);
    assert!(peers.is_empty());
}
