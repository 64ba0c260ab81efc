//! What a process keeps to itself: files that nobody else may read, and memory that no dump shows.

pub mod file;
pub mod memory;
