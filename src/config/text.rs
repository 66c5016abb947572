//! What is wrong with the text of a configuration, in its own terms: the key, the value as it was
//! written, and what the key takes. A key that does not exist is answered with the one that was
//! probably meant.
//!
//! Only looks: the conversion is serde's, which afterwards finds nothing more to complain about.
//! Not here: how values go together ([`ConfigBuilder::build`](super::ConfigBuilder::build)).

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::nearest::nearest;
use super::{CORES_EXPECTED, ConfigError, KEYS};

/// Keys, and what each takes.
pub(super) type Keys = &'static [(&'static str, Takes)];
/// Makes the error about a key that does not exist: its name, its line, the one probably meant.
pub(super) type UnknownKey = fn(String, usize, Option<&'static str>) -> ConfigError;

/// A value as written is cut here in a message.
const VALUE_CHARS_MAX: usize = 40;

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    /// A whole number within bounds.
    Whole { min: u64, max: u64 },
    /// A string.
    Text,
    /// `true` or `false`.
    Flag,
    /// A list of core numbers.
    Cores,
    /// A list of strings; what a message says instead.
    Texts(&'static str),
    /// One of these strings, and how a message lists them.
    OneOf(&'static [&'static str], &'static str),
}

/// Checks every key and every value by itself.
pub(super) fn check(
    text: &str,
    table: &DeTable<'_>,
    keys: Keys,
    unknown_key: UnknownKey,
) -> Result<(), ConfigError> {
    let meant = |name: &str| nearest(name, keys.iter().map(|&(key, _)| key));
    for (name, value) in table {
        let Some(&(key, takes)) = keys.iter().find(|(key, _)| key == name.get_ref()) else {
            let (name, line) = (name.get_ref(), line_of(text, name.span()));
            return Err(unknown_key(name.escape_debug().to_string(), line, meant(name)));
        };
        check_value(key, takes, value, || as_written(text, value))?;
    }
    Ok(())
}

fn check_value(
    key: &'static str,
    takes: Takes,
    value: &Spanned<DeValue<'_>>,
    written: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    let (is_valid, expected) = match (takes, value.get_ref()) {
        (Takes::Whole { min, max }, value) => return check_whole(key, min, max, value, written),
        (Takes::Text, value) => (value.is_str(), "a string in quotes is expected"),
        (Takes::Flag, value) => (value.is_bool(), "true or false is expected"),
        (Takes::Cores, value) => {
            let is_core = |core: &Spanned<DeValue<'_>>| {
                whole(core.get_ref()).is_some_and(|core| usize::try_from(core).is_ok())
            };
            (value.as_array().is_some_and(|cores| cores.iter().all(is_core)), CORES_EXPECTED)
        }
        (Takes::Texts(expected), value) => {
            let is_text = |text: &Spanned<DeValue<'_>>| text.get_ref().is_str();
            (value.as_array().is_some_and(|texts| texts.iter().all(is_text)), expected)
        }
        (Takes::OneOf(names, expected), value) => {
            (value.as_str().is_some_and(|name| names.contains(&name)), expected)
        }
    };
    if is_valid {
        return Ok(());
    }
    Err(ConfigError::Invalid { key, value: written(), expected })
}

fn check_whole(
    key: &'static str,
    min: u64,
    max: u64,
    value: &DeValue<'_>,
    written: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    match whole(value) {
        Some(value) if (min..=max).contains(&value) => Ok(()),
        Some(value) => Err(ConfigError::OutOfBounds { key, value, min, max }),
        None => Err(ConfigError::NotWhole { key, value: written(), min, max }),
    }
}

/// The number, unless it is another type, negative, or longer than 64 bits.
fn whole(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A value as the file has it.
fn as_written(text: &str, value: &Spanned<DeValue<'_>>) -> String {
    if value.get_ref().is_table() {
        return "a table".into();
    }
    cut(text.get(value.span()).unwrap_or_default())
}

/// A value on one short line.
pub(super) fn cut(value: &str) -> String {
    let line = value.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(VALUE_CHARS_MAX).collect();
    if cut.len() < value.len() { cut + "…" } else { cut }
}

/// A string as a file would have it.
pub(super) fn quoted(value: &str) -> String {
    cut(&format!("{value:?}"))
}

#[cold]
fn line_of(text: &str, span: Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or_default();
    before.matches('\n').count() + 1
}

/// Says which key was meant, or all there are, three to a line.
pub(super) struct Suggestion(pub(super) Option<&'static str>);

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = self.0 {
            return write!(f, "did you mean {key}?");
        }
        f.write_str("there are")?;
        for (index, keys) in KEYS.chunks(3).enumerate() {
            f.write_str(if index == 0 { "\n " } else { ",\n " })?;
            for (index, (key, _)) in keys.iter().enumerate() {
                write!(f, "{} {key}", if index == 0 { "" } else { "," })?;
            }
        }
        Ok(())
    }
}

/// As [`Suggestion`], for a list of keys that fits one line.
pub(super) struct KeyList(pub(super) Option<&'static str>, pub(super) Keys);

impl fmt::Display for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(near, keys) = self;
        if near.is_some() {
            return Suggestion(*near).fmt(f);
        }
        let names: Vec<&str> = keys.iter().map(|&(key, _)| key).collect();
        write!(f, "there are {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn check(text: &str, expected: &str) {
        let error = Config::from_toml(text).expect_err(text);
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn value_that_is_no_number_in_bounds_names_key_value_and_bound() {
        let not_whole = |value: &str, shown: &str| {
            let bound = "a whole number from 4096 to 4194304 is expected";
            let said = format!("window_bytes = {shown} is invalid: {bound}");
            check(&format!("window_bytes = {value}"), &said);
        };
        for value in ["-1", "65536.0", "\"64KiB\"", "true", "[65536]", "1979-05-27"] {
            not_whole(value, value);
        }
        not_whole(&"9".repeat(60), &format!("{}…", "9".repeat(40)));
        not_whole("{ a = 1 }", "a table");
        not_whole("\"\"\"a\nb\"\"\"", "\"\"\"a…");
        // Beyond the integer type of the key.
        check("window_bytes = 16", "window_bytes = 16 is out of bounds: 4096 to 4194304");
        check(
            "node_number = 4294967296",
            "node_number = 4294967296 is out of bounds: 0 to 4294967295",
        );
        check("tcp_dscp = 256", "tcp_dscp = 256 is out of bounds: 0 to 63");
        check("tcp_dscp = 0x1_00", "tcp_dscp = 256 is out of bounds: 0 to 63");
    }

    #[test]
    fn value_of_another_type_names_what_is_expected() {
        let idle = "\"spin\", \"adaptive\" or \"park\" is expected";
        check("idle = \"fast\"", &format!("idle = \"fast\" is invalid: {idle}"));
        check("idle = 3", &format!("idle = 3 is invalid: {idle}"));
        check("mlockall = 1", "mlockall = 1 is invalid: true or false is expected");
        check("node_name = 7", "node_name = 7 is invalid: a string in quotes is expected");
        for value in ["0", "[-1]", "[\"0\"]", "[0.5]", "[99999999999999999999]", "[0, 0]"] {
            let said = format!("cores = {value} is invalid: {CORES_EXPECTED}");
            check(&format!("cores = {value}"), &said);
        }
        // The names are those that serde takes.
        for (key, names) in [("idle", "spin adaptive park"), ("checksum", "never commands always")]
        {
            for name in names.split(' ') {
                assert!(Config::from_toml(&format!("{key} = \"{name}\"")).is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn unknown_key_is_answered_with_the_nearest() {
        let nearest = |name: &str, expected: &str| {
            let said = format!("unknown key {name} in line 2: did you mean {expected}?");
            check(&format!("idle = \"park\"\n{name} = 3"), &said);
        };
        nearest("window", "window_bytes");
        nearest("window-bytes", "window_bytes");
        nearest("reactor", "reactors");
        nearest("core", "cores");
        nearest("Idle", "idle");
        nearest("frame_max_bytes", "frame_bytes_max");
        nearest("max-connections", "connections_max");
        nearest("keepalive_s", "tcp_keepalive_s");
        nearest("ilde", "idle");
    }

    #[test]
    fn unknown_key_that_is_near_none_lists_them() {
        let error = Config::from_toml("[transport]\nidle = \"park\"").expect_err("no such key");
        let text = error.to_string();
        assert!(text.starts_with("unknown key transport in line 1: there are\n  "), "{text}");
        assert!(KEYS.iter().all(|(key, _)| text.contains(key)), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}
