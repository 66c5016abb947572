//! Values of options that several subcommands understand.
//!
//! Each parser's error says what is expected; clap puts the option and the value before it. Not
//! here: checks against the configuration or other options, which are the subcommands' own.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ringwire::{Idle, Kind, Priority};

/// Longest time an option can ask for: eleven days.
const SECONDS_MAX: f64 = 1e6;

const IDLES: [Idle; 3] = [Idle::Spin, Idle::Adaptive, Idle::Park];

pub(super) fn idle_parser() -> impl TypedValueParser<Value = Idle> {
    one_of(&IDLES, |idle| idle.name())
}

pub(super) fn kind_parser() -> impl TypedValueParser<Value = Kind> {
    one_of(&Kind::APPLICATION, kind_name)
}

pub(super) fn priority_parser() -> impl TypedValueParser<Value = Priority> {
    one_of(&Priority::ALL, priority_name)
}

/// Accepts the name of one of `values`.
fn one_of<T: Copy + Send + Sync + 'static>(
    values: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.iter().map(|&value| name(value))).map(move |text| {
        let found = values.iter().find(|&&value| name(value) == text);
        *found.expect("clap accepts the names of these values only")
    })
}

/// The name of an application kind in options and printed lines.
pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Command => "command",
        Kind::Data => "data",
        Kind::Status => "status",
        Kind::Error => "error",
        Kind::Configuration => "configuration",
        _ => "session",
    }
}

/// The names of the lanes, by number: those of the priorities.
pub(super) const LANE_NAMES: [&str; Priority::COUNT] = ["low", "normal", "high", "critical"];

/// The name of a priority in options and printed lines.
pub(super) fn priority_name(priority: Priority) -> &'static str {
    LANE_NAMES[priority.index()]
}

/// Seconds, with a fraction if need be.
pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=SECONDS_MAX).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err("seconds from 0.001 to 1000000 are expected".into()),
    }
}

/// How often a second; returns the time between two.
pub(super) fn parse_rate(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(Duration::from_secs_f64(1.0 / rate)),
        _ => Err("a rate from 0.001 to 1000000 per second is expected".into()),
    }
}

/// A payload type's number, decimal or hexadecimal.
pub(super) fn parse_type_id(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "a number from 0 to 4294967295, or 0x0 to 0xffffffff, is expected".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_numbers_are_decimal_or_hexadecimal() {
        assert_eq!(parse_type_id("257"), Ok(0x101));
        assert_eq!(parse_type_id("0x101"), Ok(0x101));
        assert_eq!(parse_type_id("0xffffffff"), Ok(u32::MAX));
        for bad in ["", "x", "-1", "0x", "4294967296"] {
            assert!(parse_type_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_and_times_have_bounds() {
        assert_eq!(parse_rate("1000"), Ok(Duration::from_millis(1)));
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "nan", "inf", "1e7", "fast", ""] {
            assert!(parse_rate(bad).is_err(), "{bad}");
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }
}
