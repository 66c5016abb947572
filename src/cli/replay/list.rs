//! `ringwire replay --list`: what is in a recording, as a table or JSON lines.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use ringwire::record::{Direction, Record, RecordOrigin, RecordedFrame};
use ringwire::{Frame, Kind, Nanos};
use serde_json::{Value, json};

use super::select::{Item, Selected};
use crate::cli::CommandError;
use crate::cli::options::{kind_name, priority_name};
use crate::cli::show::{Excerpt, Short, TimeOfDay, counted, json_line, terminal_columns};

/// Width of a payload on a line that goes to no terminal.
const EXCERPT_COLUMNS: usize = 1024;

/// Prints what is selected; returns whether the file was whole as far as it was read.
pub(super) fn print(mut selected: Selected<'_>, as_json: bool) -> Result<bool, CommandError> {
    let origin = selected.reader.origin().clone();
    let mut out = BufWriter::new(io::stdout().lock());
    let columns = terminal_columns();
    let mut number = 0_u64;
    let mut bytes = 0_u64;
    let mut latest = origin.monotonic;
    if as_json {
        let line = header_json(&selected, &origin);
        writeln!(out, "{}", json_line(&line)).map_err(CommandError::Stdout)?;
    } else {
        header(&mut out, &origin).map_err(CommandError::Stdout)?;
    }
    selected.each(|item| {
        if let Item::Frame(recorded, frame) = &item {
            number += 1;
            bytes += frame.frame_bytes() as u64;
            latest = latest.max(recorded.at);
        }
        let line = match (&item, as_json) {
            (Item::Frame(recorded, frame), true) => {
                json_line(&frame_json(number, recorded, frame, &origin))
            }
            (Item::Frame(recorded, frame), false) => line_of(recorded, frame, &origin, columns),
            (Item::Other(record), true) => match other_json(record, &origin) {
                Some(line) => json_line(&line),
                None => return Ok(ControlFlow::Continue(())),
            },
            (Item::Other(record), false) => match other_line(record, &origin) {
                Some(line) => line,
                None => return Ok(ControlFlow::Continue(())),
            },
        };
        writeln!(out, "{line}").map_err(CommandError::Stdout)?;
        Ok(ControlFlow::Continue(()))
    })?;
    if !as_json {
        let lasted = Short(latest.since(origin.monotonic));
        let frames = counted(number, "frame");
        writeln!(out, "{frames}, {}B, {lasted}", crate::cli::show::Metric(bytes as f64))
            .map_err(CommandError::Stdout)?;
    }
    out.flush().map_err(CommandError::Stdout)?;
    for remark in selected.remarks() {
        eprintln!("{remark}");
    }
    Ok(selected.is_whole())
}

/// Nanoseconds from the start of the recording, which may be a little before it.
fn offset_ns(at: Nanos, origin: &RecordOrigin) -> i64 {
    at.0.wrapping_sub(origin.monotonic.0).cast_signed()
}

fn header(out: &mut impl Write, origin: &RecordOrigin) -> io::Result<()> {
    let day = TimeOfDay(origin.wall_ns);
    let endpoint = Excerpt { payload: origin.endpoint.as_bytes(), columns: 64 };
    write!(out, "recorded at {endpoint}, from {day} UTC")?;
    if !origin.node_name.is_empty() {
        write!(out, ", by {}", Excerpt { payload: origin.node_name.as_bytes(), columns: 32 })?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "{:>12} {:<7} {:<3} {:<7} {:<8} {:<6} {:<3} {:>6} payload",
        "seconds", "session", "", "kind", "lane", "type", "", "bytes"
    )
}

fn line_of(
    recorded: &RecordedFrame<'_>,
    frame: &Frame<'_>,
    origin: &RecordOrigin,
    columns: Option<usize>,
) -> String {
    let type_id = match frame.type_id() {
        0 => "-".into(),
        number => format!("{number:#x}"),
    };
    let head = format!(
        "{:>12.6} {:<7} {:<3} {:<7} {:<8} {type_id:<6} {:<3} {:>6} ",
        offset_ns(recorded.at, origin) as f64 / 1e9,
        recorded.session.to_string(),
        match recorded.direction {
            Direction::Received => "in",
            Direction::Sent => "out",
        },
        // The one name that is longer than its column.
        if frame.kind() == Kind::Configuration { "config" } else { kind_name(frame.kind()) },
        priority_name(frame.priority()),
        marks(frame),
        frame.payload().len(),
    );
    let columns = columns
        .map_or(EXCERPT_COLUMNS, |columns| columns.saturating_sub(head.chars().count()).max(16));
    format!("{head}{}", Excerpt { payload: frame.payload(), columns })
}

/// `?` asks for an answer, `=` is one, `!` is reliable, `~` expires.
fn marks(frame: &Frame<'_>) -> String {
    let marks = [
        (frame.is_request(), '?'),
        (frame.is_response(), '='),
        (frame.is_reliable(), '!'),
        (frame.expires(), '~'),
    ];
    marks.iter().filter(|(is_so, _)| *is_so).map(|(_, mark)| mark).collect()
}

fn other_line(record: &Record<'_>, origin: &RecordOrigin) -> Option<String> {
    let seconds = |at| offset_ns(at, origin) as f64 / 1e9;
    Some(match *record {
        Record::Lost { at, frames, .. } => {
            format!("{:>12.6} {} missing here", seconds(at), counted(frames, "frame"))
        }
        Record::Peer { session, at, node_name, address } => {
            let mut line = format!("{:>12.6} {:<7} is", seconds(at), session.to_string());
            for text in [address, node_name] {
                if !text.is_empty() {
                    line += &format!(" {}", Excerpt { payload: text.as_bytes(), columns: 48 });
                }
            }
            line
        }
        _ => return None,
    })
}

fn header_json(selected: &Selected<'_>, origin: &RecordOrigin) -> Value {
    json!({
        "record": "recording",
        "node_name": origin.node_name,
        "node_number": origin.node_number,
        "endpoint": origin.endpoint,
        "monotonic_ns": origin.monotonic.0,
        "wall_ns": origin.wall_ns,
        "is_finished": selected.reader.is_finished(),
        "frames": selected.reader.frames(),
        "frames_lost": selected.reader.frames_lost(),
    })
}

fn frame_json(
    number: u64,
    recorded: &RecordedFrame<'_>,
    frame: &Frame<'_>,
    origin: &RecordOrigin,
) -> Value {
    let mut value = json!({
        "record": "frame",
        "number": number,
        "offset_ns": offset_ns(recorded.at, origin),
        "wall_ns": origin.wall_ns_of(recorded.at),
        "direction": recorded.direction.name(),
        "session": recorded.session.to_string(),
        "kind": kind_name(frame.kind()),
        "priority": priority_name(frame.priority()),
        "codec": format!("{:?}", frame.codec()).to_lowercase(),
        "type_id": frame.type_id(),
        "sequence": frame.sequence(),
        "sent_at_ns": frame.sent_at_ns(),
        "is_request": frame.is_request(),
        "is_response": frame.is_response(),
        "is_reliable": frame.is_reliable(),
        "expires": frame.expires(),
        "ttl_us": frame.extension().map_or(0, |extension| extension.ttl_us.get()),
        "payload_bytes": frame.payload().len(),
    });
    // Text as text; what is none in hexadecimal.
    let (key, text) = match std::str::from_utf8(frame.payload()) {
        Ok(text) => ("payload", text.to_owned()),
        Err(_) => {
            let digits = frame.payload().iter().map(|byte| format!("{byte:02x}"));
            ("payload_hex", digits.collect())
        }
    };
    value[key] = text.into();
    value
}

fn other_json(record: &Record<'_>, origin: &RecordOrigin) -> Option<Value> {
    Some(match *record {
        Record::Lost { at, frames, bytes } => json!({
            "record": "lost",
            "offset_ns": offset_ns(at, origin),
            "frames": frames,
            "bytes": bytes,
        }),
        Record::Peer { session, at, node_name, address } => json!({
            "record": "peer",
            "offset_ns": offset_ns(at, origin),
            "session": session.to_string(),
            "node_name": node_name,
            "address": address,
        }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_the_start_and_may_be_before_it() {
        let origin = RecordOrigin { monotonic: Nanos(1_000), ..RecordOrigin::default() };
        assert_eq!(offset_ns(Nanos(1_500), &origin), 500);
        assert_eq!(offset_ns(Nanos(900), &origin), -100);
    }
}
