//! Statistics: counters, histograms and sessions, in a file that any process may read.
//!
//! Each reactor owns one *block*; only its thread writes there, by plain loads and stores. The
//! blocks of a `Node` (or the one of a `Client` or `Reactor`) are in one mapped file, the
//! *registry*. Readers copy it, whenever they like, and the writer does not notice; the file of a
//! process that died says what was so at that moment, and one that ended in order has removed its
//! own. [`Statistics`] is the sum of the counters for people and programs, [`Snapshot`] everything.
//!
//! Where: [`directories`], or `registry_directory`; `registry = false` turns the file off. Names
//! are `NAME-PID-NUMBER.rwstats`.
//!
//! # What a file is made of
//!
//! For readers in other languages. Everything is a 64-bit word, little-endian, 8-aligned; texts are
//! UTF-8, filled up with zeros. Times are nanoseconds of CLOCK_MONOTONIC unless they say *wall*
//! (since 1970 UTC). Read with `pread`, or map it; a file never shrinks. Ready files of version 2:
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | magic | bytes `52 57 53 54 41 54 53 00` ("RWSTATS") |
//! | 8 | 8 | version | 2; another one may mean anything, but for `build` |
//! | 16 | 8 | ready | bytes "ready" and zeros, written last; 0 while the file is being made |
//! | 24 | 8 | file_bytes | length of the file |
//! | 32 | 8 | header_bytes | where the first block begins |
//! | 40 | 8 | block_bytes | length of a block |
//! | 48 | 8 | blocks | how many: one for each reactor |
//! | 56 | 8 | counters_at | offset of the counters in a block |
//! | 64 | 8 | counter_words | their length, in words |
//! | 72 | 8 | histograms_at | offset of the histograms in a block |
//! | 80 | 8 | histograms | how many |
//! | 88 | 8 | histogram_bytes | length of each |
//! | 96 | 8 | rows_at | offset of the sessions' rows in a block |
//! | 104 | 8 | rows | how many |
//! | 112 | 8 | row_bytes | length of each |
//! | 120 | 8 | lanes | lanes of a session |
//! | 128 | 8 | drop_reasons | reasons for which messages are dropped |
//! | 136 | 8 | labels_bytes | length of the labels |
//! | 144 | 8 | pid | the writer |
//! | 152 | 8 | layout | differs where builds differ in the parts below or their order |
//! | 160 | 16 | reserved | 0 |
//! | 176 | 8 | created_ns | when the file was made |
//! | 184 | 8 | created_wall_ns | the same, wall |
//! | 192 | 8 | exited_wall_ns | when the writer ended in order, wall; else 0 |
//! | 200 | 8 | is_server | 1 when it listens |
//! | 208 | 8 | turn_threshold_ns | a longer turn counts as slow |
//! | 216 | 8 | handles_too_large | messages refused by a node's handles: too long |
//! | 224 | 8 | handles_overdue | messages expired in a node's inbox |
//! | 232 | 24 | build | the build that writes, as `ringwire 0.1.0` |
//! | 256 | 64 | node_name | what the node calls itself |
//! | 320 | 64 | command | file name of the program |
//! | 384 | 112 | endpoint | the first address listened on |
//! | 496 | 16 | reserved | 0 |
//! | 512 | 7680 | labels | names of the counters' words, in order, a line break behind each |
//!
//! A block, offsets from its beginning:
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | sequence | odd while the reactor writes, in a turn and its sends |
//! | 8 | 8 | turn_began_ns | when its turn under way, or the last one, began |
//! | 16 | 8 | unsettled_messages | counted as received, and in no row yet |
//! | 24 | 8 | unsettled_bytes | their bytes |
//! | 32 | 96 | reserved | 0 |
//! | counters_at | 8 each | counters | named by the labels |
//! | histograms_at | 30848 each | histograms | in the order given below |
//! | rows_at | 640 each | rows | sessions |
//!
//! The histograms are: handler, request_round_trip, heartbeat_round_trip, queueing, one_way,
//! one_way_error, turn. Each, in nanoseconds, has the value layout of HdrHistogram for the range
//! from 1 to 2^36 - 1 and two significant digits (256 sub-buckets, 3,840 counts):
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | sum | of the values |
//! | 8 | 8 | max | the largest |
//! | 16 | 8 | clipped | values above the range, counted at its end |
//! | 24 | 104 | reserved | 0 |
//! | 128 | 30720 | counts | of the values counted together |
//!
//! A row:
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | sequence | odd while the row is written, but for its counts: see below |
//! | 8 | 8 | key | slot in the low half, above it 1 + 2 × uses of the slot before; 0: never used |
//! | 16 | 8 | state | 1 connecting, 2 connected, 3 away, 4 closing, 5 ended |
//! | 24 | 8 | updated_ns | when the row was written |
//! | 32 | 8 | since_ns | when the session was established, went away or ended |
//! | 40 | 8 | last_activity_ns | when a byte last came or went |
//! | 48 | 8 | messages_sent | messages handed to the kernel |
//! | 56 | 8 | messages_received | messages received |
//! | 64 | 8 | bytes_sent | bytes of messages handed to the kernel |
//! | 72 | 8 | bytes_received | bytes of messages received |
//! | 80 | 8 | bytes_kept | memory of unconfirmed reliable messages |
//! | 88 | 8 | messages_missed | the peer dropped them |
//! | 96 | 8 | messages_expired | came too late |
//! | 104 | 8 | expired_at_peer | ours that came too late |
//! | 112 | 8 | round_trip_ns | the last of a heartbeat; 0 unknown |
//! | 120 | 8 | clock_offset_ns | the peer's clock minus ours, two's complement |
//! | 128 | 8 | clock_error_ns | how far that may be off; 2^64 - 1 unknown |
//! | 136 | 8 | links | links so far |
//! | 144 | 8 | reason | 1 + index among the `closes.` of the labels: why it ended; 0 none |
//! | 152 | 8 | peer_number | node number of the peer |
//! | 160 | 64 | peer_name | what it calls itself |
//! | 224 | 112 | address | its address |
//! | 336 | 24 each | lanes | low to critical: bytes, frames, since when the oldest waits or 0 |
//! | 432 | 8 each | drops | messages dropped, by lane and by reason, as in `drops.` of the labels |
//!
//! **Consistency.** Read the sequence of the block; when it is even, copy what is wanted, rows
//! included, and read it again: unchanged, the copy is of one moment between two turns, and what
//! was written together adds up: `messages_received` is what the rows have received and what is
//! unsettled, as far as every session still has its row. One row alone may be read by its own
//! sequence, but for what is counted as it comes and goes (`messages_sent` to `bytes_received`, and
//! `drops`): only the block's covers that. A word by itself is always right. Memory barriers as for
//! any sequence lock.
//!
//! **Dead writers.** The writer holds an exclusive lock on the whole file for as long as it lives
//! (`F_OFD_SETLK`, fcntl_locking(2)): whoever sees none (`F_OFD_GETLK`) sees what a dead one left,
//! or a copy. So containers that share the directory tell each other's processes, whose numbers
//! mean nothing outside. The file of one that is gone stays until it is removed, unless it ended in
//! order: by `ringwire stat --clean`, or by a later node in the same directory, which leaves the
//! [`DEAD_FILES_MAX`] that died last.

mod counters;
mod export;
mod histogram;
mod layout;
#[cfg(feature = "metrics")]
mod openmetrics;
mod place;
mod reader;
mod reading;
mod registry;
mod snapshot;
mod source;

pub(crate) use counters::LANES;
pub use counters::{Counter, CounterBlock, Counters, Gauge};
pub use export::{hgrm, log_header, log_line};
#[cfg(feature = "fuzzing")]
pub(crate) use histogram::Histogram;
pub use histogram::{Reading, VALUE_MAX};
pub use layout::RowState;
pub(crate) use layout::{BlockHead, Header, Histograms, Row, store_text};
#[cfg(feature = "metrics")]
pub use openmetrics::{Exposition, exposition};
pub use place::directories;
pub use reader::{RegistryError, files, is_abandoned, remove_abandoned};
pub use reading::{LaneReading, ReactorReading, SessionReading, Snapshot, WriterState};
pub use registry::DEAD_FILES_MAX;
pub(crate) use registry::{Block, Registry, RegistryHandle};
pub(crate) use snapshot::drop_counts;
pub use snapshot::{CloseCount, ConnectionState, DropCount, Statistics};

#[cfg(test)]
mod tests;
