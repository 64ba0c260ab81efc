//! What people are told: a follower of the journal with a durable place of its own, whose receiver fails and which dies.

use protem::engine::notify::{Notice, Occasion};
use protem_verify::ids::Seq;

use super::history::{Fact, Told};
use super::weak::Weak;
use super::world::World;

/// A webhook's sender.
#[derive(Default)]
pub struct Post {
    /// Up to here its receiver has taken all: this is what survives.
    told: Seq,
}

impl World {
    /// Sends what is new, until its receiver fails. Under any bundle in force there is one to be asked.
    pub(super) fn tell(&mut self, calm: bool) {
        let up = self.brokers.iter().find_map(|broker| broker.bundle());
        let Some(bundle) = up else { return };
        for row in self.store.rows(self.post.told) {
            let notice = Notice::of(&row, bundle, self.store.reader()).unwrap();
            let fails = !calm && notice.is_some() && self.chance.percent(30);
            if fails && self.weak != Weak::ForgetsToTell {
                return self.counts.add("message failed");
            }
            if let Some(notice) = notice.filter(|_| !fails) {
                self.counts.add(match notice.occasion {
                    Occasion::Pending => "told: pending",
                    Occasion::Reminder => "told: reminder",
                    Occasion::Emergency => "told: emergency",
                    Occasion::Decided => "told: decided",
                    Occasion::Ended => "told: ended",
                    Occasion::Quarantined => "told: quarantined",
                });
                let groups = notice.groups.iter().map(ToString::to_string).collect();
                let (seq, what) = (row.seq(), notice.occasion.as_str());
                self.history.push(Fact::Told(Told { seq, what, groups, bundle: bundle.digest() }));
            }
            // It may die between the message and its note: then the message comes twice.
            if calm || !self.chance.percent(10) {
                self.post.told = row.seq();
            } else {
                return self.counts.add("sender died");
            }
        }
    }
}
