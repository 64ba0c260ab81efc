//! Sign a credential from a committed grant.
