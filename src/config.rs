//! Settings, parsed once into a struct without holes.
