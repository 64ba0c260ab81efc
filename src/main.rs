//! Read arguments, hand over, turn the end into an exit code.

fn main() {}
