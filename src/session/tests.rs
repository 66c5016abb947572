//! Tests of the session, without any I/O.
