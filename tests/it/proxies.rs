//! The proxies that people run, a real gate beside each, and what the two say together.

pub mod attacks;
pub mod blocked;
pub mod bundle;
pub mod cases;
pub mod directives;
pub mod examples;
pub mod gate;
pub mod grpc;
pub mod injected;
pub mod lint;
pub mod origin;
pub mod prober;
pub mod proxy;
pub mod raw;
pub mod readings;
pub mod relay;
pub mod site;
pub mod stage;
pub mod steering;
pub mod tls;
pub mod tools;
pub mod upstream;
