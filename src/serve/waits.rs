//! Waits for enforcement: counted by caller, and woken a few times a second however many gateways speak.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::engine::broker::Broker;
use crate::engine::receipts::{Enforcement, How, InstanceId, Mark, Receipt};
use crate::policy::login::Caller;
use crate::serve::answers::Gone;
use crate::serve::limits::{ENFORCEMENT_PAUSE, RECEIPTS_A_PAUSE};
use crate::serve::places::CallLimits;
use crate::serve::seats::{Seat, Seats};

/// Places of those who wait until gateways enforce what they ended. What is ended is ended: who finds no place is answered at
/// once with what is known.
#[derive(Clone, Debug)]
pub struct Waits {
    tasks: Kind,
    revocations: Kind,
}

#[derive(Clone, Debug)]
struct Kind {
    of_all: Arc<Semaphore>,
    own: Arc<Seats>,
}

/// A place among those who wait, free again when this is dropped.
#[derive(Debug)]
pub struct Waiting {
    _of_all: OwnedSemaphorePermit,
    _own: Seat,
}

impl Waits {
    /// All of them free.
    #[must_use]
    pub fn new(limits: CallLimits) -> Self {
        let kind = |all, own| Kind { of_all: Arc::new(Semaphore::new(all)), own: Seats::new(own) };
        Self {
            tasks: kind(limits.waits, limits.waits_of_one),
            revocations: kind(limits.followed, limits.followed_of_one),
        }
    }

    /// A place to wait for a task's end in.
    #[must_use]
    pub fn of_task(&self, caller: &Caller) -> Option<Waiting> {
        self.tasks.take(caller)
    }

    /// A place to follow a revocation's receipts from.
    #[must_use]
    pub fn of_revocation(&self, caller: &Caller) -> Option<Waiting> {
        self.revocations.take(caller)
    }
}

impl Kind {
    fn take(&self, caller: &Caller) -> Option<Waiting> {
        let own = self.own.take(caller.actor())?;
        let of_all = Arc::clone(&self.of_all).try_acquire_owned().ok()?;
        Some(Waiting { _of_all: of_all, _own: own })
    }
}

/// What there is to see of a mark's enforcement.
pub trait Sight: Sync {
    /// All of it.
    fn whole(&self) -> Enforcement;
    /// Whether it holds everywhere; `waits_for` is whom it last waited for, so that this need not look at the others again.
    fn everywhere(&self, waits_for: &mut Option<InstanceId>) -> bool;
    /// Changes whenever either may have.
    fn changed(&self) -> watch::Receiver<u64>;
    /// Lets more changes come before the next look.
    fn pause(&self) -> impl Future<Output = ()> + Send;
}

/// What a broker knows of a mark.
pub struct OfBroker<'a> {
    /// Which.
    pub broker: &'a Broker,
    /// Of what.
    pub mark: &'a Mark,
}

impl Sight for OfBroker<'_> {
    fn whole(&self) -> Enforcement {
        self.broker.enforcement(self.mark)
    }

    fn everywhere(&self, waits_for: &mut Option<InstanceId>) -> bool {
        self.broker.enforced_everywhere(self.mark, waits_for)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.broker.enforcement_changed()
    }

    async fn pause(&self) {
        tokio::time::sleep(ENFORCEMENT_PAUSE).await;
    }
}

/// What is known of enforcement, at once or when it holds everywhere, at the latest after `wait`.
pub async fn enforced(sight: &impl Sight, wait: Option<(Duration, Waiting)>) -> Enforcement {
    let known = sight.whole();
    let Some((wait, _place)) = wait.filter(|_| !known.everywhere) else { return known };
    let mut changed = sight.changed();
    let mut waits_for = None;
    let everywhere = async {
        while !sight.everywhere(&mut waits_for) {
            if changed.changed().await.is_err() || sight.everywhere(&mut waits_for) {
                return;
            }
            sight.pause().await;
        }
    };
    // Whether it holds everywhere by then is what the answer says.
    let _ = tokio::time::timeout(wait, everywhere).await;
    sight.whole()
}

/// Tells what is known at once, and then what has changed, until it holds everywhere or the wait is over. Every telling is of all
/// gateways, so the more there are, the longer is the pause between two.
///
/// # Errors
/// When whoever is told has gone.
pub async fn follow<T: Future<Output = Result<(), Gone>>>(
    sight: &impl Sight,
    wait: Option<(Duration, Waiting)>,
    tell: impl Fn(&Enforcement) -> T,
) -> Result<(), Gone> {
    let mut changed = sight.changed();
    let mut known = sight.whole();
    tell(&known).await?;
    let Some((wait, _place)) = wait else { return Ok(()) };
    let mut waited = pin!(tokio::time::sleep(wait));
    let (mut waits_for, mut everywhere) = (None, false);
    while !known.everywhere {
        let over = !everywhere
            && tokio::select! {
                biased;
                () = waited.as_mut() => true,
                more = changed.changed() => more.is_err(),
            };
        let now = sight.whole();
        if is_news(&known, &now) {
            tell(&now).await?;
        }
        known = now;
        if known.everywhere || over {
            break;
        }
        let pauses = known.receipts.len() / RECEIPTS_A_PAUSE;
        let rest = async {
            for _ in 0..=pauses {
                sight.pause().await;
                if sight.everywhere(&mut waits_for) {
                    return true;
                }
            }
            false
        };
        everywhere = tokio::select! {
            everywhere = rest => everywhere,
            () = waited.as_mut() => false,
        };
    }
    Ok(())
}

/// Whether anything happened between the two: that somebody is waited for longer is nothing new.
fn is_news(known: &Enforcement, now: &Enforcement) -> bool {
    let still = |(one, other): (&Receipt, &Receipt)| {
        one == other
            || (one.how == How::Waiting && Receipt { after: one.after, ..other.clone() } == *one)
    };
    let same = known.everywhere == now.everywhere && known.receipts.len() == now.receipts.len();
    !(same && known.receipts.iter().zip(&now.receipts).all(still))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use protem_metrics::spread::Spread;
    use protem_verify::ids::Seq;
    use protem_verify::time::Staleness;

    use super::*;
    use crate::engine::meters::TIMES;
    use crate::engine::receipts::{Covers, How, Receipts};
    use crate::policy::bundle::{Bundle, Load};
    use crate::policy::example::example;
    use crate::policy::login::Login;

    const NOW: Duration = Duration::from_secs(100);
    /// What a test that hangs is given.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A thousand gateways, of which some acknowledge in each pause, one after the other.
    struct Fleet {
        receipts: Receipts,
        acknowledged: AtomicUsize,
        a_pause: usize,
        stuck: bool,
        looks: AtomicUsize,
    }

    const ALL: usize = 1_000;

    fn id(number: usize) -> InstanceId {
        let (instance, process) = (format!("{number:04}"), String::new());
        InstanceId { gateway: "edge".try_into().unwrap(), instance, process }
    }

    fn mark() -> Mark {
        Mark { seq: Seq(10), committed: NOW, covers: Covers::Everything }
    }

    impl Fleet {
        fn new(a_pause: usize) -> Self {
            let receipts = Receipts::new(Duration::ZERO, true, Spread::new(TIMES));
            receipts.bundle(Staleness(Duration::from_secs(5)), Duration::ZERO);
            for number in 0..ALL {
                receipts.connected(&id(number), Covers::Everything, NOW);
                receipts.proven(&id(number), Seq(9), NOW);
            }
            let (acknowledged, looks) = (AtomicUsize::new(0), AtomicUsize::new(0));
            Self { receipts, acknowledged, a_pause, stuck: false, looks }
        }

        fn acknowledge(&self, count: usize) {
            let from = self.acknowledged.fetch_add(count, Ordering::Relaxed);
            for number in from..(from + count).min(ALL) {
                self.receipts.acked(&id(number), Seq(10), NOW);
            }
        }
    }

    impl Sight for Fleet {
        fn whole(&self) -> Enforcement {
            self.receipts.enforcement(&mark(), NOW)
        }

        fn everywhere(&self, waits_for: &mut Option<InstanceId>) -> bool {
            let seen = self.receipts.everywhere(&mark(), NOW, waits_for);
            if self.looks.fetch_add(1, Ordering::Relaxed) == 0 {
                self.acknowledge(self.a_pause); // what wakes who waits for the first time
            }
            seen
        }

        fn changed(&self) -> watch::Receiver<u64> {
            self.receipts.changed()
        }

        async fn pause(&self) {
            self.acknowledge(self.a_pause);
            if self.stuck {
                std::future::pending::<()>().await;
            }
        }
    }

    fn caller(login: Login) -> Caller {
        let bundle = Bundle::load(example(), Load::Activate, true).unwrap();
        let principal = bundle.who(&login).unwrap();
        Caller { principal, login: Arc::new(login) }
    }

    fn place() -> (Duration, Waiting) {
        let waits = Waits::new(CallLimits::default());
        let place = waits.of_task(&caller(Login::dev_identity("payments/agent"))).unwrap();
        (Duration::from_secs(3_600), place)
    }

    #[tokio::test]
    async fn who_waits_looks_once_a_pause_however_many_gateways_speak() {
        let fleet = Fleet::new(10);
        let known = tokio::time::timeout(PATIENCE, enforced(&fleet, Some(place()))).await.unwrap();
        assert!(known.everywhere && known.receipts.len() == ALL);
        let looks = fleet.looks.load(Ordering::Relaxed);
        assert!((2..=2 * ALL / 10 + 2).contains(&looks), "{looks} looks");
    }

    #[tokio::test]
    async fn who_follows_is_told_of_many_receipts_at_once() {
        let fleet = Fleet::new(10);
        let told = Mutex::new(Vec::new());
        let tell = |known: &Enforcement| {
            let waiting = known.receipts.iter().filter(|one| one.how == How::Waiting).count();
            let mut told = told.lock().unwrap();
            told.push((waiting, known.everywhere));
            if told.len() == 1 {
                fleet.acknowledge(10);
            }
            async { Ok(()) }
        };
        let followed = follow(&fleet, Some(place()), tell);
        tokio::time::timeout(PATIENCE, followed).await.unwrap().unwrap();
        let told = told.into_inner().unwrap();
        assert_eq!(told.first(), Some(&(ALL, false)), "the first comes at once");
        assert_eq!(told.last(), Some(&(0, true)));
        assert!(told.is_sorted_by(|one, next| one.0 > next.0), "each tells of more: {told:?}");
        // A pause for each 64 of a thousand: some ten lists, and not a thousand.
        assert!(told.len() <= ALL / 10 / (ALL / RECEIPTS_A_PAUSE) + 3, "{} lists", told.len());
        // Without a wait there is one.
        let only = AtomicUsize::new(0);
        let tell = |_: &Enforcement| {
            only.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        };
        follow(&Fleet::new(0), None, tell).await.unwrap();
        assert_eq!(only.into_inner(), 1);
    }

    #[tokio::test]
    async fn what_came_last_is_told_when_the_wait_is_over() {
        // What comes in its pause is all that comes, and the pause does not end.
        let fleet = Fleet { stuck: true, ..Fleet::new(1) };
        let last = Mutex::new(None);
        let tell = |known: &Enforcement| {
            let acknowledged = known.receipts.iter().filter(|one| one.how != How::Waiting).count();
            if last.lock().unwrap().replace(acknowledged).is_none() {
                fleet.acknowledge(1);
            }
            async { Ok(()) }
        };
        let (_, place) = place();
        let followed = follow(&fleet, Some((Duration::from_millis(20), place)), tell);
        tokio::time::timeout(PATIENCE, followed).await.unwrap().unwrap();
        let acknowledged = fleet.acknowledged.load(Ordering::Relaxed);
        assert_eq!(last.into_inner().unwrap(), Some(acknowledged));
    }

    #[test]
    fn that_time_goes_on_is_no_news() {
        let receipt = |number: usize, how, after| {
            let InstanceId { gateway, instance, process } = id(number);
            Receipt { gateway, instance, process, how, after: Duration::from_millis(after) }
        };
        let known = |receipts, everywhere| Enforcement { receipts, everywhere };
        let before = known(vec![receipt(1, How::Waiting, 5)], false);
        for (now, expect) in [
            (known(vec![receipt(1, How::Waiting, 6)], false), false),
            (known(vec![receipt(1, How::Waiting, 6)], true), true),
            (known(vec![receipt(1, How::Acknowledged, 5)], false), true),
            (known(vec![receipt(2, How::Waiting, 5)], false), true),
            (known(vec![receipt(1, How::Waiting, 5), receipt(2, How::Waiting, 5)], false), true),
            (known(vec![], false), true),
        ] {
            assert_eq!(is_news(&before, &now), expect, "{now:?}");
        }
    }

    #[test]
    fn each_caller_has_its_own_places_and_people_have_theirs() {
        let limits = CallLimits { waits: 3, waits_of_one: 2, ..CallLimits::default() };
        let waits = Waits::new(CallLimits { followed: 1, ..limits });
        let [agent, other] =
            ["payments/agent", "payments/reconciler"].map(|name| caller(Login::dev_identity(name)));
        let operator = caller(Login::dev_person("olga", &["operators"]));
        let first = waits.of_task(&agent).unwrap();
        let _second = waits.of_task(&agent).unwrap();
        assert!(waits.of_task(&agent).is_none());
        let _third = waits.of_task(&other).unwrap();
        assert!(waits.of_task(&other).is_none(), "all are taken");
        assert!(waits.of_revocation(&operator).is_some());
        drop(first);
        assert!(waits.of_task(&other).is_some());
    }
}
