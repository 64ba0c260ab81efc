//! The engine: turns, the feed, deadlines, bundles, keys, receipts.

pub mod access;
pub mod again;
pub mod approvals;
#[cfg(test)]
mod approvals_test;
pub mod broker;
#[cfg(test)]
mod broker_test;
mod builds;
pub mod bundle;
pub mod changes;
pub mod desk;
pub mod dice;
pub mod ending;
pub mod feed;
#[cfg(test)]
mod feed_test;
pub mod filter;
pub mod granted;
pub mod health;
pub mod instance;
pub mod keys;
#[cfg(test)]
mod keys_test;
pub mod lane;
pub mod loading;
pub mod marks;
pub mod meters;
pub mod minder;
pub mod minting;
#[cfg(test)]
mod narrow_test;
pub mod notify;
#[cfg(test)]
mod notify_test;
pub mod opening;
#[cfg(test)]
mod owners_test;
mod parts;
pub mod plan;
pub mod proof;
pub mod receipts;
#[cfg(test)]
mod receipts_test;
#[cfg(test)]
mod review_test;
pub mod ring;
#[cfg(test)]
mod ring_test;
pub mod rotation;
pub mod run;
pub mod seats;
pub mod sequencer;
#[cfg(test)]
mod sequencer_test;
pub mod snapshot;
pub mod start;
pub mod stop;
pub mod subscribe;
pub mod subscription;
pub mod tail;
pub mod tasks;
pub mod thread;
pub mod threads;
pub mod timekeeper;
pub mod unusual;
pub mod usual;
#[cfg(test)]
mod usual_test;
pub mod verdicts;
