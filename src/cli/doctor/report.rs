//! What a check says, and how it is shown: lines for people, JSON for programs.
//!
//! Both come from the same [`Check`]s. Commands are never wrapped: they are there to be copied.

use std::fmt::Write as _;
use std::io::{self, Write};

use ringwire::sys::probe::Capabilities;
use serde::Serialize;

use super::recommend::{self, Setting};
use super::selftest::SelfTest;

/// Columns before the check's name, columns of the name, and the narrowest useful text behind.
const VERDICT_COLUMNS: usize = 19;
const NAME_COLUMNS: usize = 19;
const TEXT_COLUMNS_MIN: usize = 30;

/// What is to be said about one fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// As it should be.
    Good,
    /// Works, and costs latency or capacity.
    CouldBeBetter,
    /// Something this configuration asks for fails here.
    WillNotWork,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::CouldBeBetter => "could be better",
            Self::WillNotWork => "will not work",
        }
    }

    /// Green, yellow, bold red: ECMA-48 SGR.
    fn colour(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::CouldBeBetter => "\x1b[33m",
            Self::WillNotWork => "\x1b[1;31m",
        }
    }
}

/// One fact, judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    /// What was found, and what that means.
    pub(super) found: String,
    /// What to do about it.
    pub(super) advice: Option<String>,
    /// The command that does it, to be run as root where it says `sudo`.
    pub(super) command: Option<String>,
}

impl Check {
    pub(super) fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Good, found: found.into(), advice: None, command: None }
    }

    pub(super) fn better(check: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::CouldBeBetter, ..Self::good(check, found) }
    }

    pub(super) fn bad(check: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::WillNotWork, ..Self::good(check, found) }
    }

    /// What could not be read can not be judged.
    pub(super) fn unknown(check: &'static str, file: &str) -> Self {
        Self::better(check, format!("not known: cannot read {file}"))
            .advice("mount /proc and /sys into this container to have it checked")
    }

    pub(super) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    pub(super) fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }
}

/// Checks under one heading.
#[derive(Debug, Serialize)]
pub(super) struct Section {
    pub(super) section: &'static str,
    pub(super) checks: Vec<Check>,
}

/// Everything `doctor` has to say.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The worst of all verdicts.
    pub(super) verdict: Verdict,
    pub(super) good: usize,
    pub(super) could_be_better: usize,
    pub(super) will_not_work: usize,
    pub(super) sections: Vec<Section>,
    /// What probing found; null where there is no ring.
    pub(super) capabilities: Option<Capabilities>,
    /// What was measured; null without the self-test.
    pub(super) self_test: Option<SelfTest>,
    /// What the configuration should say.
    pub(super) recommended: Recommended,
}

/// Settings, and the same as text for a configuration file.
#[derive(Debug, Default, Serialize)]
pub(super) struct Recommended {
    pub(super) toml: String,
    pub(super) settings: Vec<Setting>,
}

/// How lines are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) columns: usize,
    pub(super) colours: bool,
}

impl Report {
    pub(super) fn new(sections: Vec<Section>, capabilities: Option<Capabilities>) -> Self {
        let verdicts = || sections.iter().flat_map(|section| &section.checks).map(|c| c.verdict);
        let count = |verdict| verdicts().filter(|&other| other == verdict).count();
        Self {
            verdict: verdicts().max().unwrap_or(Verdict::Good),
            good: count(Verdict::Good),
            could_be_better: count(Verdict::CouldBeBetter),
            will_not_work: count(Verdict::WillNotWork),
            sections,
            capabilities,
            self_test: None,
            recommended: Recommended::default(),
        }
    }

    pub(super) fn recommending(mut self, settings: Vec<Setting>) -> Self {
        self.recommended = Recommended { toml: recommend::toml(&settings), settings };
        self
    }

    /// Writes lines for people.
    pub(super) fn print(&self, output: &mut impl Write, style: Style) -> io::Result<()> {
        let mut text = String::new();
        for section in &self.sections {
            let _ = writeln!(text, "{}", style.bold(section.section));
            for check in &section.checks {
                lines_of(&mut text, check, style);
            }
            text.push('\n');
        }
        if !self.recommended.settings.is_empty() {
            let _ =
                writeln!(text, "{}", style.bold("Recommended settings (ringwire --config FILE)"));
            for line in self.recommended.toml.lines() {
                let _ = match line.strip_prefix("# ") {
                    Some(reason) => writeln!(text, "  {}", style.faint(&format!("# {reason}"))),
                    None => writeln!(text, "  {line}"),
                };
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "{} good, {} could be better, {} will not work",
            self.good, self.could_be_better, self.will_not_work
        );
        output.write_all(text.as_bytes())
    }

    /// Writes the same for programs: one JSON object.
    pub(super) fn print_json(&self, output: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *output, self)?;
        output.write_all(b"\n")
    }
}

impl Style {
    fn bold(self, text: &str) -> String {
        if self.colours { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn faint(self, text: &str) -> String {
        if self.colours { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn verdict(self, verdict: Verdict) -> String {
        let words = format!("{:<1$}", verdict.words(), VERDICT_COLUMNS - 2);
        if self.colours { format!("{}{words}\x1b[0m", verdict.colour()) } else { words }
    }
}

/// Verdict, name and what was found; below it what to do; below that the command.
fn lines_of(text: &mut String, check: &Check, style: Style) {
    const ARROW: &str = "-> ";
    let columns = |indent| style.columns.saturating_sub(indent).max(TEXT_COLUMNS_MIN);
    let indent = VERDICT_COLUMNS + NAME_COLUMNS;
    for (index, line) in wrap(&check.found, columns(indent)).into_iter().enumerate() {
        let name = format!("{:<NAME_COLUMNS$}", check.check);
        let _ = match index {
            0 => writeln!(text, "  {}{name}{line}", style.verdict(check.verdict)),
            _ => writeln!(text, "{:indent$}{line}", ""),
        };
    }
    let indent = VERDICT_COLUMNS + ARROW.len();
    let advice = check.advice.iter().flat_map(|advice| wrap(advice, columns(indent)));
    for (index, line) in advice.enumerate() {
        let _ = match index {
            0 => writeln!(text, "{:VERDICT_COLUMNS$}{ARROW}{line}", ""),
            _ => writeln!(text, "{:indent$}{line}", ""),
        };
    }
    if let Some(command) = &check.command {
        // Further left where it would not fit otherwise: what is broken can not be copied.
        let indent = if indent + 2 + command.len() <= style.columns { indent } else { 2 };
        let _ = writeln!(text, "{:indent$}{}", "", style.bold(&format!("$ {command}")));
    }
}

/// Breaks `text` at blanks into lines of at most `columns`; longer words stand alone.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let width = line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && width > columns {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { columns: 80, colours: false };

    fn report() -> Report {
        let bad = Check::bad("nofile", "the limit of 8 descriptors does not even hold the rings")
            .advice("raise the limit, in the service's unit or for this shell")
            .command(
                "ulimit -n 4096 # and this line is long, yet it is never broken in two pieces",
            );
        let checks = vec![Check::good("kernel", "6.18.0"), bad];
        Report::new(vec![Section { section: "Limits", checks }], None)
    }

    fn printed(style: Style) -> String {
        let mut output = Vec::new();
        report().print(&mut output, style).expect("memory takes it");
        String::from_utf8(output).expect("text")
    }

    #[test]
    fn lines_hold_verdict_name_finding_advice_and_command() {
        let expected = "\
Limits
  good             kernel             6.18.0
  will not work    nofile             the limit of 8 descriptors does not even
                                      hold the rings
                   -> raise the limit, in the service's unit or for this shell
  $ ulimit -n 4096 # and this line is long, yet it is never broken in two pieces

1 good, 0 could be better, 1 will not work
";
        assert_eq!(printed(PLAIN), expected);
    }

    #[test]
    fn command_moves_left_to_fit() {
        let columns = |command: &str| {
            let mut text = String::new();
            lines_of(&mut text, &Check::better("x", "y").command(command), PLAIN);
            text.lines().last().and_then(|line| line.find('$')).expect("a command")
        };
        assert_eq!(columns("short"), 22);
        assert_eq!(columns(&"x".repeat(56)), 22);
        assert_eq!(columns(&"x".repeat(57)), 2);
        assert_eq!(columns(&"x".repeat(100)), 2);
    }

    #[test]
    fn colours_are_escapes_and_nothing_else() {
        let mut coloured = printed(Style { colours: true, ..PLAIN });
        assert!(coloured.contains("\x1b[1;31mwill not work"));
        for escape in ["\x1b[0m", "\x1b[1m", "\x1b[32m", "\x1b[1;31m"] {
            coloured = coloured.replace(escape, "");
        }
        assert_eq!(coloured, printed(PLAIN));
    }

    #[test]
    fn json_says_the_same() {
        let mut output = Vec::new();
        report().print_json(&mut output).expect("memory takes it");
        let json: serde_json::Value = serde_json::from_slice(&output).expect("JSON");
        assert_eq!(json["verdict"], "will_not_work");
        assert_eq!(json["good"], 1);
        let check = &json["sections"][0]["checks"][1];
        assert_eq!(check["check"], "nofile");
        assert_eq!(check["verdict"], "will_not_work");
        assert!(check["command"].as_str().is_some_and(|c| c.starts_with("ulimit -n")));
        assert!(json["sections"][0]["checks"][0]["advice"].is_null());
    }

    #[test]
    fn worst_verdict_wins() {
        assert_eq!(report().verdict, Verdict::WillNotWork);
        assert_eq!(Report::new(Vec::new(), None).verdict, Verdict::Good);
    }

    #[test]
    fn long_words_stand_alone() {
        assert_eq!(wrap("a /very/long/path b", 6), ["a", "/very/long/path", "b"]);
        assert_eq!(wrap("", 6), [""]);
    }
}
