//! Messages, times and counts as people read them.
//!
//! Invariant: nothing a peer sent reaches the terminal as a control character, so that a payload
//! can neither move the cursor nor reorder the line it stands on.

use std::fmt;
use std::time::Duration;

use ringwire::wire::{Body, BodyError, Codec, Scratch};
use serde::Serialize;

/// Columns of a terminal that does not say.
const COLUMNS_DEFAULT: usize = 80;

/// Bytes with the marks of a message: what `send` makes of text and files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marked<'a> {
    pub(super) codec: Codec,
    pub(super) type_id: u32,
    pub(super) payload: &'a [u8],
}

impl Body for Marked<'_> {
    fn codec(&self) -> Codec {
        self.codec
    }

    fn type_id(&self) -> u32 {
        self.type_id
    }

    fn encode(&self, out: &mut [u8], scratch: &mut Scratch) -> Result<usize, BodyError> {
        self.payload.encode(out, scratch)
    }
}

/// A payload on one line: its text when that can be printed, else its bytes in hexadecimal; at
/// most `columns` wide. What was cut off shows as its whole length.
pub(super) struct Excerpt<'a> {
    pub(super) payload: &'a [u8],
    pub(super) columns: usize,
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.payload.is_empty() {
            return f.write_str("(empty)");
        }
        let tail = format!("… ({} B)", self.payload.len());
        let room = self.columns.saturating_sub(tail.chars().count());
        match std::str::from_utf8(self.payload) {
            Ok(text) if text.chars().all(is_printable) => {
                // No more than fits is looked at twice: the payload may be megabytes long.
                let shown: String = text.chars().take(self.columns + 1).flat_map(escaped).collect();
                if shown.chars().count() <= self.columns {
                    return f.write_str(&shown);
                }
                let cut: String = shown.chars().take(room).collect();
                write!(f, "{cut}{tail}")
            }
            _ => {
                // "hex" and " 7f" for each byte.
                let fitting = |columns: usize| columns.saturating_sub("hex".len()) / " 7f".len();
                let is_whole = self.payload.len() <= fitting(self.columns);
                let count = if is_whole { self.payload.len() } else { fitting(room) };
                f.write_str("hex")?;
                self.payload[..count].iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                f.write_str(if is_whole { "" } else { &tail })
            }
        }
    }
}

/// Tabs and line breaks count: they are shown as `\t` and `\n`.
pub(super) fn is_printable(c: char) -> bool {
    // The marks that change the direction of what follows (Unicode annex 9).
    let turns = |c| match c {
        '\u{61c}' | '\u{200e}' | '\u{200f}' => true,
        c => matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'),
    };
    matches!(c, '\t' | '\n' | '\r') || !(c.is_control() || turns(c))
}

/// One line of JSON. What no terminal is to see is escaped, as anything may be in JSON's strings
/// (RFC 8259, section 7), and outside of them nothing of it stands.
pub(super) fn json_line(value: &impl Serialize) -> String {
    let line = serde_json::to_string(value).expect("it is made of numbers and text");
    if line.chars().all(is_printable) {
        return line;
    }
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        if is_printable(c) {
            shown.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                shown += &format!("\\u{unit:04x}");
            }
        }
    }
    shown
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let (first, second) = match c {
        '\t' => ('\\', Some('t')),
        '\n' => ('\\', Some('n')),
        '\r' => ('\\', Some('r')),
        other => (other, None),
    };
    std::iter::once(first).chain(second)
}

/// A point in time as `18:25:03.123`, UTC; from nanoseconds since 1970.
pub(super) struct TimeOfDay(pub(super) u64);

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0 / 1_000_000_000, self.0 / 1_000_000 % 1_000);
        let (hours, minutes) = (seconds / 3_600 % 24, seconds / 60 % 60);
        write!(f, "{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
    }
}

/// A duration with three digits that mean something: `83.1 µs`, `1.25 ms`. Hours and days where
/// seconds would have more than four; beyond 9,999 days it is none.
pub(super) struct Short(pub(super) Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let (value, unit) = match seconds {
            s if s < 999.5e-9 => (s * 1e9, "ns"),
            s if s < 999.5e-6 => (s * 1e6, "µs"),
            s if s < 999.5e-3 => (s * 1e3, "ms"),
            s if s < 9_999.5 => (s, "s"),
            s if s < 99.95 * 3_600.0 => (s / 3_600.0, "h"),
            s if s < 9_999.5 * 86_400.0 => (s / 86_400.0, "d"),
            _ => return f.write_str(">9999 d"),
        };
        write!(f, "{value:.*} {unit}", decimals(value))
    }
}

/// A number of bytes, or of anything else, with three digits: `79.0 k`, `1.25 M`; ends in a space
/// or the unit's prefix, so that a unit can follow. Rounded before a prefix is chosen: what rounds
/// to 1000 is `1.00 k`. At most six characters, whatever the number; what is none is 0.
pub(super) struct Metric(pub(super) f64);

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = if self.0 >= 0.0 { self.0 } else { 0.0 };
        if number < 999.5 {
            return write!(f, "{number:.0} ");
        }
        let mut value = number / 1e3;
        for prefix in ["k", "M", "G", "T", "P", "E"] {
            if value < 999.5 {
                return write!(f, "{value:.*} {prefix}", decimals(value));
            }
            value /= 1e3;
        }
        f.write_str(">999 E")
    }
}

fn decimals(value: f64) -> usize {
    match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    }
}

/// `1 message`, `2 messages`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// How wide standard output is, when it is a terminal.
pub(super) fn terminal_columns() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    Some(if size.ws_col == 0 { COLUMNS_DEFAULT } else { size.ws_col.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(payload: &[u8], columns: usize, expected: &str) {
        let shown = Excerpt { payload, columns }.to_string();
        assert_eq!(shown, expected);
        assert!(shown.chars().count() <= columns.max(expected.len()), "{shown}");
    }

    #[test]
    fn text_is_shown_as_text() {
        check(b"", 20, "(empty)");
        check(b"hello", 20, "hello");
        check("Motor läuft".as_bytes(), 20, "Motor läuft");
        check(b"a\tb\n", 20, "a\\tb\\n");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        check(b"\x1b[2J", 20, "hex 1b 5b 32 4a");
        check("\u{202e}abc".as_bytes(), 40, "hex e2 80 ae 61 62 63");
        check("\u{61c}abc".as_bytes(), 40, "hex d8 9c 61 62 63");
        check(b"\xff\x00", 20, "hex ff 00");
    }

    #[test]
    fn long_payloads_are_cut_and_say_how_long_they_are() {
        check(&[b'x'; 100], 20, "xxxxxxxxxxx… (100 B)");
        check(&[b'x'; 20], 20, "xxxxxxxxxxxxxxxxxxxx");
        check(&[0; 100], 20, "hex 00 00… (100 B)");
        check(&[b'\n'; 15], 20, "\\n\\n\\n\\n\\n\\n… (15 B)");
    }

    /// What a peer says can not write on the terminal through JSON either, and is the same to who
    /// reads it.
    #[test]
    fn json_holds_no_control_characters() {
        let text = "a\u{9b}2J\u{202e}\u{7f}\u{1b}[m\nü";
        let line = json_line(&text);
        assert_eq!(line, r#""a\u009b2J\u202e\u007f\u001b[m\nü""#);
        assert_eq!(serde_json::from_str::<String>(&line).expect("JSON"), text);
        assert_eq!(json_line(&"plain"), r#""plain""#);
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(Short(Duration::from_nanos(83_149)).to_string(), "83.1 µs");
        assert_eq!(Short(Duration::from_micros(1_250)).to_string(), "1.25 ms");
        assert_eq!(Short(Duration::from_secs(120)).to_string(), "120 s");
        assert_eq!(Metric(999.0).to_string(), "999 ");
        assert_eq!(Metric(79_012.0).to_string(), "79.0 k");
        assert_eq!(counted(1, "message"), "1 message");
        assert_eq!(counted(0, "message"), "0 messages");
    }

    /// Two figures that differ by a hair are written alike, and none has four digits.
    #[test]
    fn figures_are_rounded_before_their_unit_is_chosen() {
        let metric = |number: f64| Metric(number).to_string();
        assert_eq!([999.4, 999.6, 1_000.4].map(metric), ["999 ", "1.00 k", "1.00 k"]);
        assert_eq!([9_994.0, 9_996.0, 99_960.0].map(metric), ["9.99 k", "10.0 k", "100 k"]);
        assert_eq!([999_600.0, 999.6e6, 18.4e18].map(metric), ["1.00 M", "1.00 G", "18.4 E"]);
        assert_eq!([f64::NAN, -1.0, f64::INFINITY].map(metric), ["0 ", "0 ", ">999 E"]);
        let mut random = fastrand::Rng::with_seed(12);
        for _ in 0..10_000 {
            let number = 10_f64.powf(random.f64() * 40.0 - 3.0);
            assert!(metric(number).chars().count() <= 6, "{number}: {}", metric(number));
            let nanos = random.u64(..) >> random.u32(..64);
            let shown = Short(Duration::from_nanos(nanos)).to_string();
            assert!(shown.chars().count() <= 7, "{nanos}: {shown}");
        }
        let short = |nanos| Short(Duration::from_nanos(nanos)).to_string();
        assert_eq!([999_600, 999_999_999, 0].map(short), ["1.00 ms", "1.00 s", "0.00 ns"]);
        assert_eq!(Short(Duration::from_secs(36_000)).to_string(), "10.0 h");
        assert_eq!(Short(Duration::MAX).to_string(), ">9999 d");
    }

    #[test]
    fn time_of_day_is_utc() {
        assert_eq!(TimeOfDay(1_700_000_000_123_456_789).to_string(), "22:13:20.123");
    }
}
