//! The web page at `/ui/`: people sign in, see what waits, and decide it. Rendered here, and whole without any script.

pub mod assets;
pub mod attempts;
pub mod cookie;
pub mod decide;
pub mod entered;
pub mod escape;
pub mod frame;
pub mod headers;
pub mod issuer;
pub mod limits;
pub mod live;
pub mod origin;
pub mod outcome;
pub mod pages;
pub mod problem;
pub mod request;
pub mod reviews;
pub mod sessions;
pub mod sign_in;
pub mod site;
pub mod ticket;
pub mod waiting;
pub mod words;
