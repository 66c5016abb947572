//! A configuration as a file that explains itself: each key with what it is for, its unit, its
//! bounds and its value.
//!
//! What a key is for is the first sentence of its setter's documentation, without its markup. Not
//! here: reading ([`ConfigBuilder::from_toml`](super::ConfigBuilder::from_toml)).

use super::settings::{DOCS, KEYS, Settings};
use super::text::Takes;
use super::{CORES_EXPECTED, Config};

/// Comments are no wider, so that a file can be read beside another.
const COLUMNS: usize = 80;

impl Config {
    /// The settings as a TOML file: every key, with what it is for, its unit, its bounds, its
    /// value, and its default where that is another. What is not set stands in a comment.
    ///
    /// [`from_toml`](Self::from_toml) makes an equal configuration of it.
    ///
    /// ```
    /// let file = ringwire::Config::default().to_toml();
    /// assert!(file.contains("# bytes, 1024 to 268435456\nframe_bytes_max = 4194304\n"));
    /// assert_eq!(ringwire::Config::from_toml(&file), Ok(ringwire::Config::default()));
    /// ```
    #[must_use]
    pub fn to_toml(&self) -> String {
        let (values, defaults) = (self.settings.values(), Settings::default().values());
        let keys = KEYS.iter().zip(DOCS).zip(values.iter().zip(&defaults));
        let entries = keys.map(|((&(key, takes), doc), (value, default))| {
            let mut expected = expected(key, takes);
            match default {
                Some(default) if value.as_ref() != Some(default) => {
                    expected = format!("{expected}; default {default}");
                }
                _ => {}
            }
            let assignment = match value {
                Some(value) => format!("{key} = {value}\n"),
                None => format!("# not set: {key} = \"\"\n"),
            };
            comment(&first_sentence(doc)) + &comment(&expected) + &assignment
        });
        entries.collect::<Vec<_>>().join("\n")
    }
}

/// What a key takes, as in "bytes, 1024 to 268435456".
fn expected(key: &str, takes: Takes) -> String {
    let listed = |text: &str| text.trim_end_matches(" is expected").to_owned();
    match takes {
        Takes::Whole { min, max } => match unit(key) {
            Some(unit) => format!("{unit}, {min} to {max}"),
            None => format!("{min} to {max}"),
        },
        Takes::Text => "a string".into(),
        Takes::Flag => "true or false".into(),
        Takes::Cores => listed(CORES_EXPECTED),
        Takes::Texts(text) | Takes::OneOf(_, text) => listed(text),
    }
}

/// The unit that a key's name ends with.
fn unit(key: &str) -> Option<&'static str> {
    let is_bound = |word: &&str| !matches!(*word, "min" | "max");
    Some(match key.rsplit('_').find(is_bound)? {
        "bytes" => "bytes",
        "us" => "microseconds",
        "ms" => "milliseconds",
        "s" => "seconds",
        "ppm" => "parts per million",
        _ => return None,
    })
}

/// The first sentence of a documentation, as plain text.
fn first_sentence(doc: &str) -> String {
    let text = without_markup(doc.trim());
    let end = text.find(". ").map_or(text.len(), |end| end + 1);
    text[..end].to_owned()
}

/// Names of code without their quotes, and links without their targets.
fn without_markup(doc: &str) -> String {
    let mut text = String::new();
    let mut rest = doc;
    while let Some((before, link)) = rest.split_once("[`") {
        let (name, after) = link.split_once("`]").expect("a link ends");
        text += before;
        text += name;
        rest = match after.strip_prefix('(') {
            Some(target) => target.split_once(')').expect("a target ends").1,
            None => after,
        };
    }
    (text + rest).replace('`', "")
}

/// Lines of a comment, as wide as they may be.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut width = COLUMNS;
    for word in text.split_whitespace() {
        let chars = word.chars().count();
        if width + 1 + chars > COLUMNS {
            lines += if lines.is_empty() { "#" } else { "\n#" };
            width = 1;
        }
        lines.push(' ');
        lines += word;
        width += 1 + chars;
    }
    lines + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigBuilder, Idle, Overflow};
    use crate::wire::Priority;

    fn check(builder: ConfigBuilder) -> String {
        let config = builder.build().expect("valid");
        let file = config.to_toml();
        assert_eq!(Config::from_toml(&file), Ok(config), "{file}");
        file
    }

    #[test]
    fn listing_reads_back() {
        check(Config::builder());
        let settings = Config::builder().node_name("drive \"7\"\nof 'cell'").idle(Idle::Park);
        let settings = settings.overflow(Priority::Low, Overflow::DropOldest).express(true);
        let settings = settings.schema_hash(u64::MAX).cores([3, 1]).tcp_congestion("cubic");
        check(settings.registry_directory("/run/cell").registry(false).tcp_dscp(46));
    }

    #[test]
    fn listing_has_every_key_and_what_it_takes() {
        let file = check(Config::builder());
        for (key, takes) in KEYS {
            let has = |line: &str| file.lines().any(|found| found.starts_with(line));
            let is_there = has(&format!("{key} = ")) || has(&format!("# not set: {key} = "));
            assert!(is_there, "{key}");
            assert!(has(&format!("# {}", expected(key, *takes))), "{key}");
        }
        for line in file.lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
            assert!(!line.contains(['`', '[']) || !line.starts_with('#') || line.contains("::1"));
        }
    }

    #[test]
    fn setting_is_explained() {
        let file = check(Config::builder().frame_bytes_max(65_536));
        let entry = "\
\n# Largest frame accepted and sent: header, extension, payload and padding, in
# bytes.
# bytes, 1024 to 268435456; default 4194304
frame_bytes_max = 65536
";
        assert!(file.contains(entry), "{file}");
        assert!(file.contains("\n# \"spin\", \"adaptive\" or \"park\"\nidle = \"adaptive\"\n"));
        assert!(file.contains("\n# a string\n# not set: tcp_congestion = \"\"\n"), "{file}");
        assert!(file.contains("\n# milliseconds, 0 to 3600000\nheartbeat_interval_ms = 1000\n"));
    }

    #[test]
    fn markup_is_taken_off() {
        let check = |doc, text: &str| assert_eq!(first_sentence(doc), text);
        check(" Bodies of [`Bytes`](bytes::Bytes) in `x`. More.", "Bodies of Bytes in x.");
        check(" At most [`MAX`], 0.5 of it", "At most MAX, 0.5 of it");
        check(" At (`[::1]:9464`).", "At ([::1]:9464).");
    }
}
