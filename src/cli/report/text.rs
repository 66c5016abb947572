//! Text from outside on its way into markup: nothing in it may become markup, or a path.
//!
//! What is read from JSON lines is anybody's. [`escape`] is applied to every piece of it, once,
//! where it is put between tags or into an attribute; [`file_name`] where it names a file.

/// Longest name in a legend or a heading, in characters.
const NAME_CHARS_MAX: usize = 28;
/// Longest part of a file name that comes from outside, in bytes.
const FILE_NAME_BYTES_MAX: usize = 60;

/// `text` as it may stand between tags and in a quoted attribute, of HTML and of XML.
///
/// Characters that XML 1.0 forbids, and those that turn the direction of what follows, become
/// U+FFFD: one would make a drawing unreadable, the other a verdict.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if is_hostile(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn is_hostile(c: char) -> bool {
    let direction = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}');
    c.is_control() || direction || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// `text` cut to `chars` characters, with an ellipsis where something was cut.
pub(super) fn cut(text: &str, chars: usize) -> String {
    assert!(chars > 0, "an ellipsis needs a place");
    if text.chars().count() <= chars {
        return text.into();
    }
    text.chars().take(chars - 1).chain(['…']).collect()
}

/// A name as it stands in legends and headings: cut, not escaped. Of ringwire with other settings,
/// `ringwire[KEY = VALUE]`, the settings, and of those the end, which tells them apart.
pub(super) fn name(text: &str) -> String {
    if text.trim().is_empty() {
        return "(no name)".into();
    }
    let settings = text.strip_prefix("ringwire").filter(|rest| rest.starts_with('['));
    match settings {
        Some(settings) if settings.chars().count() > NAME_CHARS_MAX => {
            let left_out = settings.chars().count() - NAME_CHARS_MAX + 2;
            "[…".chars().chain(settings.chars().skip(left_out)).collect()
        }
        Some(settings) => settings.into(),
        None => cut(text, NAME_CHARS_MAX),
    }
}

/// The part of a file name that says `text`: lower-case letters, digits and single dashes.
///
/// Two texts may give the same name; never a path, a hidden file or an empty name.
pub(super) fn file_name(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        if out.len() >= FILE_NAME_BYTES_MAX {
            break;
        }
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    let out = out.trim_end_matches('-');
    if out.is_empty() { "unnamed".into() } else { out.into() }
}

/// About how wide `text` is drawn, in units of its font size: what legends and margins are laid
/// out by, as no font is measured. Rather too wide than too narrow.
pub(super) fn width(text: &str) -> f64 {
    let of = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | 'I' | '.' | ',' | ':' | '\'' | '|' | '/' | ' ' => 0.36,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 0.92,
        'A'..='Z' => 0.72,
        c if c.is_ascii() => 0.6,
        _ => 1.0,
    };
    text.chars().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_loses_its_meaning() {
        assert_eq!(
            escape("<a href='x'>&\"</a>"),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;"
        );
        assert_eq!(
            escape("a\0b\u{1b}[2Jc\u{202e}d\nf\u{ffff}"),
            "a\u{fffd}b\u{fffd}[2Jc\u{fffd}d f\u{fffd}"
        );
        assert_eq!(escape("µs, 7 ≤ 8"), "µs, 7 ≤ 8");
    }

    #[test]
    fn file_names_are_names() {
        assert_eq!(file_name("rtt 64 B spin, ringwire"), "rtt-64-b-spin-ringwire");
        assert_eq!(file_name("../../etc/passwd"), "etc-passwd");
        assert_eq!(file_name("\0/.."), "unnamed");
        assert_eq!(file_name(""), "unnamed");
        assert!(file_name(&"x/".repeat(500)).len() <= FILE_NAME_BYTES_MAX);
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(name(" "), "(no name)");
        assert_eq!(name(&"ä".repeat(100)).chars().count(), NAME_CHARS_MAX);
    }

    #[test]
    fn settings_are_told_apart_by_their_end() {
        assert_eq!(name("ringwire[express = true]"), "[express = true]");
        let of = |value: &str| name(&format!("ringwire[in_place_bytes_min_and_more = {value}]"));
        let (first, second) = (of("1024"), of("4096"));
        assert!(first.starts_with("[…") && first.ends_with(" = 1024]"), "{first}");
        assert_eq!(first.chars().count(), NAME_CHARS_MAX);
        assert_ne!(first, second);
        assert_eq!(name("ringwire-express"), "ringwire-express");
    }
}
