//! Nothing: the models are in `tests/loom.rs`, which says how to run them.
