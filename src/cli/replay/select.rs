//! Which frames of a recording are meant: by time, lane, kind, session and direction.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ringwire::record::{Direction, Ending, Record, RecordReader, RecordedFrame};
use ringwire::wire::Decoder;
use ringwire::{Frame, Kind, Nanos, Priority};

use crate::cli::CommandError;
use crate::cli::options::{kind_parser, priority_parser};
use crate::cli::show::counted;

/// Longest frame that any node accepts.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// Frames of several reactors may be this much out of order: where reading stops.
const DISORDER_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct Selection {
    /// Leave out what came before so many seconds into the recording.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true,
          value_parser = parse_offset)]
    from: Option<Duration>,

    /// Leave out what came after so many seconds into the recording.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true,
          value_parser = parse_offset)]
    to: Option<Duration>,

    /// Only frames of this lane: low, normal, high or critical.
    #[arg(long, visible_alias = "priority", value_name = "LANE", hide_possible_values = true,
          value_parser = priority_parser())]
    lane: Option<Priority>,

    /// Only frames of these kinds: command, data, status, error, configuration.
    #[arg(long, value_name = "KIND", value_delimiter = ',', hide_possible_values = true,
          value_parser = kind_parser())]
    kind: Vec<Kind>,

    /// Only frames of this session, as --list shows it: 0.1.0.
    #[arg(long, value_name = "SESSION", value_parser = parse_session)]
    session: Option<String>,

    /// Only frames that the recorder received, or only those it sent.
    #[arg(long, value_name = "received|sent", hide_possible_values = true,
          value_parser = direction_parser())]
    frames: Option<Direction>,
}

/// A recording that is read through a selection.
pub(super) struct Selected<'a> {
    selection: &'a Selection,
    direction: Option<Direction>,
    pub(super) reader: RecordReader,
    path: PathBuf,
    from: Nanos,
    to: Nanos,
    /// What was found besides frames.
    pub(super) found: Found,
}

/// What is missing in a recording, as far as it was read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// Frames that the recorder lost.
    pub(super) lost: u64,
    /// Frames that are none, though their checksum is right.
    pub(super) unreadable: u64,
}

/// One thing that was selected.
pub(super) enum Item<'a> {
    Frame(RecordedFrame<'a>, Frame<'a>),
    /// Anything but a frame.
    Other(Record<'a>),
}

fn direction_parser() -> impl TypedValueParser<Value = Direction> {
    PossibleValuesParser::new(["received", "sent"])
        .map(|text| if text == "sent" { Direction::Sent } else { Direction::Received })
}

/// Seconds from the start of a recording.
fn parse_offset(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=1e9).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("seconds from 0 to 1000000000 are expected".into()),
    }
}

/// A session as it is shown: reactor, slot, and how often the slot had been used before.
fn parse_session(text: &str) -> Result<String, String> {
    // No sign and no leading zero: what is shown is compared with it.
    let is_number = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_digit())
            && part.parse::<u32>().is_ok_and(|number| number.to_string() == part)
    };
    let parts: Vec<_> = text.split('.').collect();
    match parts.len() == 3 && parts.into_iter().all(is_number) {
        true => Ok(text.into()),
        false => Err("a session as --list shows it is expected: 0.1.0".into()),
    }
}

impl Selection {
    /// Opens a recording where the selection begins. Frames of `preferred` are meant when no
    /// direction is named.
    pub(super) fn open(
        &self,
        path: &Path,
        preferred: Option<Direction>,
    ) -> Result<Selected<'_>, CommandError> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from > to
        {
            return Err(CommandError::Usage("--from is behind --to: nothing is between".into()));
        }
        let failed = |source| CommandError::Recording { path: path.into(), source };
        let mut reader = RecordReader::open(path).map_err(failed)?;
        let begun = reader.origin().monotonic;
        let from = self.from.map_or(Nanos(0), |from| begun + from);
        let to = self.to.map_or(Nanos::NEVER, |to| begun + to);
        reader.seek(from).map_err(|source| failed(source.into()))?;
        Ok(Selected {
            selection: self,
            direction: self.frames.or(preferred),
            reader,
            path: path.into(),
            from,
            to,
            found: Found::default(),
        })
    }

    fn takes(&self, recorded: &RecordedFrame<'_>, frame: &Frame<'_>) -> bool {
        self.lane.is_none_or(|lane| frame.priority() == lane)
            && (self.kind.is_empty() || self.kind.contains(&frame.kind()))
            && self.session.as_ref().is_none_or(|session| recorded.session.to_string() == *session)
    }
}

impl Selected<'_> {
    /// Hands what is meant to `take`, one after the other, until that is wrong or has enough, or
    /// nothing is left.
    pub(super) fn each(
        &mut self,
        mut take: impl FnMut(Item<'_>) -> Result<ControlFlow<()>, CommandError>,
    ) -> Result<(), CommandError> {
        let (from, to) = (self.from, self.to);
        let is_meant = |at| (from..=to).contains(&at);
        loop {
            let record = self.reader.next().map_err(|source| CommandError::Recording {
                path: self.path.clone(),
                source: source.into(),
            })?;
            let Some(record) = record else { return Ok(()) };
            let taken = match record {
                Record::Frame(recorded)
                    if self.direction.is_some_and(|direction| recorded.direction != direction) =>
                {
                    continue;
                }
                Record::Frame(recorded) if is_meant(recorded.at) => match whole(recorded.bytes) {
                    Some(frame) if self.selection.takes(&recorded, &frame) => {
                        take(Item::Frame(recorded, frame))?
                    }
                    Some(_) => continue,
                    None => {
                        self.found.unreadable += 1;
                        continue;
                    }
                },
                Record::Lost { at, frames, .. } if is_meant(at) => {
                    self.found.lost = self.found.lost.saturating_add(frames);
                    take(Item::Other(record))?
                }
                Record::Frame(RecordedFrame { at, .. }) if at > to + DISORDER_MAX => {
                    return Ok(());
                }
                Record::Peer { .. } => take(Item::Other(record))?,
                _ => continue,
            };
            if taken.is_break() {
                return Ok(());
            }
        }
    }

    /// What to say when nothing was selected, though it was read to its end.
    pub(super) fn nothing(&self) -> CommandError {
        let failed = |source| CommandError::Recording { path: self.path.clone(), source };
        let (mut received, mut sent) = (0_u64, 0_u64);
        let counted = RecordReader::open(&self.path).and_then(|mut reader| {
            while let Some(record) = reader.next()? {
                if let Record::Frame(recorded) = record {
                    match recorded.direction {
                        Direction::Received => received += 1,
                        Direction::Sent => sent += 1,
                    }
                }
            }
            Ok(())
        });
        match counted {
            Ok(()) => CommandError::NothingSelected { received, sent },
            Err(source) => failed(source),
        }
    }

    /// Whether nothing that was written is missing, as far as it was read. A recording that goes
    /// on, or whose recorder was killed, is unfinished and whole.
    pub(super) fn is_whole(&self) -> bool {
        !matches!(self.reader.ending(), Some(Ending::Cut { .. } | Ending::Damaged { .. }))
    }

    /// What is to be said of what is missing; nothing when all is well.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let Found { lost, unreadable } = self.found;
        if lost > 0 {
            remarks.push(format!("{} missing in the recording", counted(lost, "frame")));
        }
        if unreadable > 0 {
            remarks.push(format!("{} left out: not of this version", counted(unreadable, "frame")));
        }
        match self.reader.ending() {
            Some(Ending::Unfinished) => remarks.push("the recording was not finished".into()),
            Some(Ending::Cut { offset }) => remarks.push(format!(
                "the recording is cut off: its last whole record ends at byte {offset}"
            )),
            Some(Ending::Damaged { offset }) => remarks
                .push(format!("the recording is damaged from byte {offset} on: read up to there")),
            Some(Ending::Finished) | None => {}
        }
        remarks
    }
}

/// The frame, when it is one.
fn whole(bytes: &[u8]) -> Option<Frame<'_>> {
    let mut rest = bytes;
    let frame = Decoder::new(FRAME_BYTES_MAX).next(&mut rest).ok()??;
    (rest.is_empty() && frame.kind().is_application()).then_some(frame)
}
