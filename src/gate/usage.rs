//! What a gateway counts of the calls it decided: handed on without waiting, summed up beside them, reported in batches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prost_types::Timestamp;
use protem_metrics::count::Counts;
use protem_proto::wire::v1;
use protem_verify::codes::check::TOO_MANY;
use protem_verify::ids::GrantId;
use protem_verify::names::ScopeName;
use tokio::sync::mpsc;

/// Where checks hand on what they decided. Handing on never waits: what finds no room is counted as such.
#[derive(Clone, Debug)]
pub struct Uses {
    to: mpsc::Sender<Use>,
    lost: Lost,
}

/// Calls that there was no room to count: those of one broker's credentials, which it is told of, and all of the process.
#[derive(Clone, Debug)]
pub struct Lost {
    own: Counts,
    all: Counts,
}

impl Lost {
    /// None yet of one broker's; `all`: those of every broker.
    #[must_use]
    pub fn new(all: Counts) -> Self {
        Self { own: Counts::one(), all }
    }

    fn rise(&self, by: u64) {
        self.own.rise(by);
        self.all.rise(by);
    }
}

/// One decided call of a credential that the issuer's key signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Whose.
    pub grant: GrantId,
    /// What was called, as the catalog spells it; `None` where the catalog has no such operation.
    pub operation: Option<Arc<str>>,
    /// What became of it.
    pub how: How,
    /// When, since 1970.
    pub at: Duration,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// This scope allowed it.
    Allowed(ScopeName),
    /// It was refused, with this code.
    Refused(&'static str),
}

/// Calls that may wait to be summed up: a tenth of a second of the fastest gateway; some MiB.
const WAITING_MAX: usize = 16_384;
/// Different sums that are kept while the broker cannot be told; about 150 bytes each.
pub const SUMS_MAX: usize = 20_000;
/// Messages of one report: as many as a broker takes.
const MESSAGES_MAX: usize = 1_000;

impl Uses {
    /// A way to hand on, and its other end. `lost` counts what finds no room.
    #[must_use]
    pub fn new(lost: Lost) -> (Self, mpsc::Receiver<Use>) {
        let (to, from) = mpsc::channel(WAITING_MAX);
        (Self { to, lost }, from)
    }

    /// Hands one on. Calls that came too often take half of the room at most, so that a task that runs wild hides no other's.
    pub fn note(&self, one: Use) {
        let wild = one.how == How::Refused(TOO_MANY.id);
        let crowded = self.to.capacity() <= self.to.max_capacity() / 2;
        if (wild && crowded) || self.to.try_send(one).is_err() {
            self.lost.rise(1);
        }
    }
}

/// Sums of a process of a gateway, and the report that is on its way. A report is sent again, word for word, until it was
/// answered: its numbers rise, so nothing of it is counted twice.
#[derive(Debug)]
pub struct Sums {
    gateway: String,
    instance: String,
    sums: HashMap<(GrantId, Option<Arc<str>>, How), Sum>,
    /// Sent, or about to be; empty when all that was sent is answered.
    open: Vec<v1::ReportUsageRequest>,
    number: u64,
    lost: Lost,
    /// Of what was lost, what the broker knows, or is told by the open report.
    told: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sum {
    count: u64,
    last: Duration,
}

impl Sums {
    /// Nothing yet. `instance`: this process's own, as its numbers begin at one.
    #[must_use]
    pub fn new(gateway: String, instance: String, lost: Lost) -> Self {
        let (sums, open) = (HashMap::new(), Vec::new());
        Self { gateway, instance, sums, open, number: 0, lost, told: 0 }
    }

    /// Adds one call.
    pub fn add(&mut self, one: Use) {
        let Use { grant, operation, how, at } = one;
        let key = (grant, operation, how);
        if let Some(sum) = self.sums.get_mut(&key) {
            sum.count = sum.count.saturating_add(1);
            sum.last = sum.last.max(at);
        } else if self.sums.len() < SUMS_MAX {
            self.sums.insert(key, Sum { count: 1, last: at });
        } else {
            self.lost.rise(1);
        }
    }

    /// The report to send now: the one that was not answered, else the next; empty when there is nothing to say.
    pub fn report(&mut self) -> &[v1::ReportUsageRequest] {
        if self.open.is_empty() {
            let keys: Vec<_> = self.sums.keys().take(MESSAGES_MAX).cloned().collect();
            for key in keys {
                let Some(sum) = self.sums.remove(&key) else { continue };
                self.number = self.number.saturating_add(1);
                let message = self.message(key, sum);
                self.open.push(message);
            }
            let all = self.lost.own.at(0);
            if let Some(first) = self.open.first_mut() {
                first.dropped = all.saturating_sub(self.told);
                self.told = all;
            }
        }
        &self.open
    }

    fn message(
        &self,
        (grant, operation, how): (GrantId, Option<Arc<str>>, How),
        sum: Sum,
    ) -> v1::ReportUsageRequest {
        let (scope, refusal, allowed, refused) = match how {
            How::Allowed(scope) => (scope.to_string(), String::new(), sum.count, 0),
            How::Refused(code) => (String::new(), code.to_owned(), 0, sum.count),
        };
        let seconds = i64::try_from(sum.last.as_secs()).unwrap_or(i64::MAX);
        v1::ReportUsageRequest {
            gateway: self.gateway.clone(),
            grant: grant.0.to_vec(),
            scope,
            operation: operation.map_or_else(String::new, |operation| operation.to_string()),
            allowed,
            refused,
            refusal,
            last: Some(Timestamp { seconds, nanos: 0 }),
            instance: self.instance.clone(),
            report: self.number,
            dropped: 0,
        }
    }

    /// The open report was answered.
    pub fn answered(&mut self) {
        self.open.clear();
    }

    /// The broker will never take the open report: its calls stay uncounted.
    pub fn refused(&mut self) {
        let lost = self.open.iter().map(|message| message.allowed.saturating_add(message.refused));
        self.lost.rise(lost.fold(0, u64::saturating_add));
        self.open.clear();
    }

    /// Whether more waits than one report holds.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.sums.len() >= MESSAGES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(grant: u128, operation: &str, refused: bool, at: u64) -> Use {
        let scope = ScopeName::try_from("orders:read").unwrap();
        let how = if refused { How::Refused("PT-0413") } else { How::Allowed(scope) };
        let operation = Some(operation.into()).filter(|_| !operation.is_empty());
        Use { grant: GrantId(grant.to_be_bytes()), operation, how, at: Duration::from_secs(at) }
    }

    fn sums() -> Sums {
        Sums::new("edge".into(), "i.1".into(), Lost::new(Counts::one()))
    }

    #[test]
    fn calls_are_summed_and_a_lost_report_is_sent_again_as_it_was() {
        let mut sums = sums();
        assert!(sums.report().is_empty());
        for at in [3, 9, 5] {
            sums.add(one(1, "GET /a", false, at));
        }
        sums.add(one(1, "", true, 4));
        let mut first = sums.report().to_vec();
        sums.add(one(1, "GET /a", false, 11));
        assert_eq!(sums.report(), first, "the answer was lost");
        first.sort_by_key(|message| message.refused);
        assert_eq!((first[0].allowed, first[0].last.unwrap().seconds), (3, 9));
        assert_eq!(
            (&*first[1].refusal, first[1].refused, &*first[1].operation),
            ("PT-0413", 1, "")
        );
        sums.answered();
        let second = sums.report().to_vec();
        assert_eq!((second.len(), second[0].allowed, second[0].report), (1, 1, 3));
        sums.answered();
        assert!(sums.report().is_empty());
    }

    #[test]
    fn a_credential_in_a_loop_takes_half_of_the_room() {
        let dropped = Counts::one();
        let (uses, mut from) = Uses::new(Lost::new(dropped.clone()));
        let wild = Use { how: How::Refused(TOO_MANY.id), ..one(1, "GET /a", true, 1) };
        (0..WAITING_MAX).for_each(|_| uses.note(wild.clone()));
        uses.note(one(2, "GET /a", false, 2));
        let half = u64::try_from(WAITING_MAX / 2).unwrap();
        assert_eq!(dropped.at(0), half);
        let others = std::iter::from_fn(|| from.try_recv().ok()).filter(|one| one != &wild);
        assert_eq!(others.count(), 1);
    }

    /// INVARIANT(counting_is_bounded_and_never_waits).
    #[test]
    fn counting_is_bounded_and_never_waits() {
        let dropped = Counts::one();
        let lost = Lost::new(dropped.clone());
        let (uses, mut from) = Uses::new(lost.clone());
        (0..WAITING_MAX + 7).for_each(|_| uses.note(one(1, "GET /a", false, 1)));
        assert_eq!(dropped.at(0), 7);
        let mut sums = Sums::new("edge".into(), "i.1".into(), lost);
        while let Ok(one) = from.try_recv() {
            sums.add(one);
        }
        let many = u128::try_from(SUMS_MAX).unwrap() + 3;
        (1..=many).for_each(|grant| sums.add(one(grant, "GET /a", false, 1)));
        assert_eq!(dropped.at(0), 7 + 3);
        let mut reported = 0;
        let mut messages = 0;
        let mut said = 0;
        while !sums.report().is_empty() {
            let report = sums.report();
            assert!(report.len() <= MESSAGES_MAX);
            reported += report.iter().map(|message| message.allowed).sum::<u64>();
            said += report.iter().map(|message| message.dropped).sum::<u64>();
            messages += report.len();
            sums.answered();
        }
        assert_eq!(messages, SUMS_MAX);
        assert_eq!(reported, u64::try_from(SUMS_MAX + WAITING_MAX).unwrap());
        assert_eq!(said, 10, "the broker is told what is missing, once");
    }

    #[test]
    fn what_a_broker_never_takes_is_counted_as_lost() {
        let mut sums = sums();
        sums.add(one(1, "GET /a", false, 1));
        sums.add(one(1, "GET /a", false, 1));
        assert_eq!(sums.report().len(), 1);
        sums.refused();
        sums.add(one(2, "GET /a", false, 1));
        let next = sums.report();
        assert_eq!((next.len(), next[0].dropped, next[0].report), (1, 2, 2));
    }
}
