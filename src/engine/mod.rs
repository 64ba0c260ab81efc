//! The engine: turns, the feed, deadlines, bundles, keys, receipts.

pub mod filter;
pub mod keys;
pub mod lane;
pub mod minting;
pub mod receipts;
pub mod ring;
pub mod sequencer;
pub mod stop;
pub mod thread;
pub mod timekeeper;
