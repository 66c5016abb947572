//! Linux: the only place with `unsafe`.
pub mod probe;
