//! What must never slip, checked by reading the source: the direction of imports, the place of
//! `unsafe`, a header in every file, facts that stand in two places, and what a build needs.
//!
//! Reads text, not syntax: strings and comments are blanked first, `#[cfg(test)] mod … { … }` and
//! the `tests.rs` files are left out of what concerns shipped code. Each check returns what it
//! found wrong, so that the tests at the bottom can show it failing on a wrong sample.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom inside `src/`, beyond its own module: the arrows of ARCHITECTURE.md.
const LAYERS: &[(&str, &[&str])] = &[
    // Leaves, importable by anyone. They name each other's types and the wire's enums.
    ("config", &["endpoint", "error", "time", "wire"]),
    ("endpoint", &["error", "wire"]),
    ("error", &["config", "endpoint", "sys::probe", "time", "wire"]),
    // The processor has an instruction for it, and only `sys` may say so.
    ("crc", &["sys::crc"]),
    ("record", &["crc", "time"]),
    ("stats", &["config", "error", "sync", "sys::lock", "sys::map", "time"]),
    ("sync", &[]),
    ("time", &[]),
    // Serves the statistics, on a runtime and a thread of its own.
    ("metrics", &["stats"]),
    // Bytes and rules: no socket, no ring, no clock. `wire` does not even know what time is.
    // Asks whether there is as much memory, which takes a mapping.
    ("mem", &["config", "error", "stats", "sys::map", "time"]),
    ("wire", &["crc", "error"]),
    ("session", &["config", "error", "mem", "stats", "time", "wire"]),
    // Linux. Moves bytes, knows no frames.
    ("sys", &["config", "endpoint", "error", "mem", "stats", "time"]),
    (
        "reactor",
        &[
            "config", "endpoint", "error", "mem", "record", "session", "stats", "sync", "sys",
            "time", "wire",
        ],
    ),
    // Drains a tap into a file, on a thread of its own.
    ("recorder", &["error", "reactor", "record", "time"]),
    // What an application uses. `node` pins threads, which only `sys` can.
    ("client", &["config", "endpoint", "error", "reactor", "session", "stats", "time", "wire"]),
    ("pool", &["config", "error", "reactor", "session", "stats", "time", "wire"]),
    (
        "node",
        &[
            "config", "endpoint", "error", "metrics", "reactor", "session", "stats", "sys", "time",
            "wire",
        ],
    ),
    (
        "server",
        &["config", "endpoint", "error", "node", "reactor", "session", "stats", "time", "wire"],
    ),
    (
        "transport",
        &["client", "config", "error", "node", "reactor", "server", "session", "stats", "wire"],
    ),
    // The command, and the entry functions of the fuzz targets, stand on top.
    (
        "cli",
        &[
            "client",
            "config",
            "endpoint",
            "error",
            "mem",
            "node",
            "reactor",
            "record",
            "recorder",
            "server",
            "session",
            "stats",
            "sys",
            "time",
            "transport",
            "wire",
        ],
    ),
    (
        "fuzzing",
        &[
            "config", "endpoint", "error", "mem", "reactor", "record", "session", "stats", "time",
            "wire",
        ],
    ),
];

/// Modules that do no I/O: what of the standard library and the dependencies they must not touch.
const SANS_IO: [&str; 3] = ["mem", "session", "wire"];
const IO: [&str; 9] = [
    "std::net",
    "std::os::fd",
    "std::os::unix::net",
    "std::fs",
    "std::thread",
    "Nanos::now",
    "io_uring",
    "socket2",
    "rustix",
];

/// Macros that have no place in finished code.
const UNFINISHED: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// Packages that need a C compiler or a C library's headers.
const C_BUILD: [&str; 5] = ["cc", "cmake", "bindgen", "pkg-config", "nasm-rs"];

/// A finding: file, line and what is wrong.
type Findings = Vec<String>;

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All `.rs` files below `folder`, relative to the root, with their text.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root");
                files.insert(name.to_str().expect("UTF-8").into(), read(&path));
            }
        }
    }
    files
}

/// Replaces comments and the contents of strings and character literals by spaces. Lines stay.
fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    let keep = |out: &mut String, c: char| out.push(if c == '\n' { '\n' } else { ' ' });
    while at < chars.len() {
        let rest = &chars[at..];
        let end = match rest {
            ['/', '/', ..] => rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => string(rest),
            ['r', '"' | '#', ..] if !is_word(chars[..at].last()) => match raw_string(rest) {
                Some(end) => end,
                None => {
                    out.push('r');
                    at += 1;
                    continue;
                }
            },
            ['\'', '\\', _, ..] => {
                3 + rest[3..].iter().position(|&c| c == '\'').map_or(0, |end| end + 1)
            }
            ['\'', _, '\'', ..] => 3,
            [c, ..] => {
                out.push(*c);
                at += 1;
                continue;
            }
            [] => unreachable!("the loop ends at the last character"),
        };
        rest[..end].iter().for_each(|&c| keep(&mut out, c));
        at += end;
    }
    out
}

fn is_word(c: Option<&char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || *c == '_')
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] if depth == 1 => return at + 2,
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    let open = 2 + hashes;
    rest[open..]
        .windows(end.len())
        .position(|window| window == end)
        .map(|at| open + at + end.len())
        .or(Some(rest.len()))
}

/// Blanks `#[cfg(test)]` items with a body: what ships has none of it. Takes blanked text.
fn without_tests(blanked: &str) -> String {
    let mut out = blanked.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let rest = &out[start..];
        let end = match (rest.find('{'), rest.find(';')) {
            (Some(brace), semicolon) if semicolon.is_none_or(|at| brace < at) => {
                let mut depth = 0;
                let close = rest.char_indices().find(|&(_, c)| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == '}' && depth == 0
                });
                close.map_or(rest.len(), |(at, _)| at + 1)
            }
            (_, Some(semicolon)) => semicolon + 1,
            _ => rest.len(),
        };
        let spaces: String = rest[..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        out.replace_range(start..start + end, &spaces);
    }
    out
}

/// The code of a file that ships, without comments, strings and tests; empty for a test file.
fn shipped(path: &str, source: &str) -> String {
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        return String::new();
    }
    without_tests(&blank(source))
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Every place in `code` where `word` stands on its own.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !is_word(before.as_ref()) && (word.ends_with(['!', '(']) || !is_word(after.as_ref()))
    })
}

/// `src/session/lane.rs` → `session`; `src/client.rs` → `client`; the two roots have no layer.
fn layer(path: &str) -> Option<&str> {
    let name = path.strip_prefix("src/")?.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (!["lib", "main", "bin"].contains(&name)).then_some(name)
}

/// How many `super::` lead from a file of `src/` to the root of the crate.
fn depth(path: &str) -> usize {
    path.trim_end_matches("/mod.rs").matches('/').count()
}

/// The paths behind `crate::`, as far as two segments: `a::b`, also through `crate::{a, b::{c}}`.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    // A macro's `$crate::` is expanded at its user's, who imports it then.
    for at in words(code, "crate").filter(|&at| !code[..at].ends_with('$')) {
        let line = line_of(code, at);
        let Some(rest) = code[at + "crate".len()..].strip_prefix("::") else { continue };
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut item = String::new();
            for c in group.chars() {
                depth += i32::from(c == '{') - i32::from(c == '}');
                if depth == 0 || (depth == 1 && c == ',') {
                    paths.push((line, head_of(&item)));
                    item.clear();
                } else {
                    item.push(c);
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            paths.push((line, head_of(rest)));
        }
    }
    paths.retain(|(_, path)| !path.is_empty());
    paths
}

/// The first two segments of the path that `path` starts with.
fn head_of(path: &str) -> String {
    let path = path.trim_start();
    let end = path.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    path[..end.unwrap_or(path.len())].split("::").take(2).collect::<Vec<_>>().join("::")
}

fn check_layers(path: &str, source: &str) -> Findings {
    let Some(from) = layer(path) else { return Findings::new() };
    let code = shipped(path, source);
    let mut findings = Findings::new();
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == from) else {
        return vec![format!("{path}: module `{from}` has no place in tests/tidy.rs, LAYERS")];
    };
    let supers = "super::".repeat(depth(path));
    for (line, to) in crate_paths(&code.replace(&supers, "crate::")) {
        let module = to.split("::").next().unwrap_or_default();
        // Macros and re-exports of the front door (`crate::payload!`, `crate::Codec`).
        if !LAYERS.iter().any(|(name, _)| *name == module) {
            if SANS_IO.contains(&from) && module.starts_with(char::is_uppercase) {
                findings.push(format!("{path}:{line}: `{to}` by its front door: name its module"));
            }
            continue;
        }
        let fits = |allowed: &&str| *allowed == module || to.starts_with(*allowed);
        if module != from && !allowed.iter().any(fits) {
            findings.push(format!("{path}:{line}: `{from}` must not import `{to}`"));
        }
    }
    if SANS_IO.contains(&from) {
        for word in IO {
            for at in words(&code, word) {
                let line = line_of(&code, at);
                findings.push(format!("{path}:{line}: `{from}` does no I/O: `{word}`"));
            }
        }
    }
    findings
}

fn check_unsafe(path: &str, source: &str) -> Findings {
    if path.starts_with("src/sys/") || path == "src/sys.rs" {
        return Findings::new();
    }
    let code = blank(source);
    let mut findings = Findings::new();
    for at in words(&code, "unsafe") {
        findings.push(format!("{path}:{}: `unsafe` outside src/sys", line_of(&code, at)));
    }
    for at in words(&code, "unsafe_code") {
        let before = code[..at].lines().next_back().unwrap_or_default().trim_start();
        let after = code[at..].lines().nth(1).unwrap_or_default();
        let denied = before.starts_with("#![deny(") || before.starts_with("#![forbid(");
        let on_sys = path == "src/lib.rs" && ["pub mod sys;", "mod sys;"].contains(&after.trim());
        if path.starts_with("src/") && !denied && !on_sys {
            findings.push(format!("{path}:{}: `unsafe_code` allowed here", line_of(&code, at)));
        }
    }
    if path == "src/lib.rs" && !code.contains("#![deny(unsafe_code)]") {
        findings.push(format!("{path}: `#![deny(unsafe_code)]` is missing"));
    }
    findings
}

fn check_form(path: &str, source: &str) -> Findings {
    let mut findings = Findings::new();
    if !source.starts_with("//! ") {
        findings.push(format!("{path}:1: does not open with `//!`"));
    }
    for (line, text) in (1..).zip(source.lines()) {
        let columns = text.chars().count();
        if columns > 100 {
            findings.push(format!("{path}:{line}: {columns} columns, 100 is the limit"));
        }
    }
    findings
}

fn check_unfinished(path: &str, source: &str) -> Findings {
    let code = blank(source);
    let mut findings = Findings::new();
    for word in UNFINISHED {
        for at in words(&code, word) {
            findings.push(format!("{path}:{}: `{word}`", line_of(&code, at)));
        }
    }
    if path.starts_with("src/") {
        let code = shipped(path, source);
        for (at, _) in code.match_indices(".unwrap()") {
            let line = line_of(&code, at);
            findings.push(format!("{path}:{line}: `unwrap()`: say why with `expect`"));
        }
    }
    findings
}

/// Every dependency has its reason in a comment above it.
fn check_reasons(cargo_toml: &str) -> Findings {
    let mut findings = Findings::new();
    let mut in_dependencies = false;
    let mut before = "";
    for (line, text) in (1..).zip(cargo_toml.lines()) {
        if text.starts_with('[') {
            in_dependencies = text.ends_with("dependencies]");
        } else if in_dependencies
            && text.split_once('=').is_some_and(|(name, _)| !name.starts_with(['#', ' ', '"']))
            && !before.starts_with("# ")
        {
            findings.push(format!("Cargo.toml:{line}: no reason above `{text}`"));
        }
        before = text;
    }
    findings
}

/// Nothing in the lock file compiles C, as far as it is compiled for Linux.
fn check_no_c(cargo_lock: &str) -> Findings {
    /// Packages for other systems, which the lock file lists all the same.
    const ELSEWHERE: [&str; 1] = ["iana-time-zone-haiku"];
    let value = |line: &str| Some(line.strip_prefix("name = \"")?.strip_suffix('"')?.to_owned());
    let mut findings = Findings::new();
    for package in cargo_lock.split("[[package]]") {
        let name = package.lines().find_map(value).unwrap_or_default();
        if ELSEWHERE.contains(&&*name) {
            continue;
        }
        let wanted = package.lines().filter_map(|line| line.trim().strip_prefix('"'));
        let wanted = wanted.filter_map(|line| line.split(['"', ' ']).next());
        for wanted in wanted.filter(|wanted| C_BUILD.contains(wanted)) {
            findings.push(format!("Cargo.lock: `{name}` needs a C toolchain: `{wanted}`"));
        }
    }
    findings
}

/// What is counted is built as the library ships: the profile `instructions` of `fuzz/Cargo.toml`
/// says all that `release` says here, and takes back what fuzzing wants of its own.
fn check_counted_profile(cargo_toml: &str, fuzz_toml: &str) -> Findings {
    let section = |text: &str, name: &str| -> BTreeSet<String> {
        let body = text.split_once(&format!("\n[profile.{name}]\n")).map_or("", |(_, body)| body);
        let lines = body.lines().take_while(|line| !line.starts_with('['));
        lines.filter(|line| line.contains(" = ")).map(str::to_owned).collect()
    };
    let shipped = section(cargo_toml, "release");
    let counted = section(fuzz_toml, "instructions");
    let mut expected = shipped.clone();
    expected.insert("inherits = \"release\"".into());
    for line in section(fuzz_toml, "release") {
        let name = line.split(" = ").next().expect("the first part");
        if !shipped.iter().any(|line| line.starts_with(&format!("{name} = "))) {
            // Nothing is said of it where it ships: what cargo does by default.
            let default = match name {
                "debug-assertions" | "overflow-checks" => "false",
                _ => return vec![format!("fuzz/Cargo.toml: the default of `{name}`?")],
            };
            expected.insert(format!("{name} = {default}"));
        }
    }
    let found = |line: &String| format!("fuzz/Cargo.toml, [profile.instructions]: `{line}`");
    let mut findings: Findings = expected.symmetric_difference(&counted).map(found).collect();
    if shipped.is_empty() {
        findings.push("Cargo.toml: no [profile.release]".into());
    }
    findings
}

/// The packages of a lock file that `root` is made of: names, each with its versions there. Only
/// what `wanted` names of the root's own dependencies.
fn locked_below(
    cargo_lock: &str,
    root: &str,
    wanted: impl Fn(&str) -> bool,
) -> BTreeMap<String, BTreeSet<String>> {
    let value = |package: &str, key: &str| {
        let mut lines = package.lines();
        let quoted = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        quoted.map(|rest| rest.trim_end_matches('"').to_owned()).unwrap_or_default()
    };
    let packages: Vec<(String, String, &str)> = cargo_lock
        .split("[[package]]")
        .skip(1)
        .map(|package| (value(package, "name"), value(package, "version"), package))
        .collect();
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    let mut todo = vec![(root.to_owned(), None)];
    while let Some((name, version)) = todo.pop() {
        // A version is said where there are several.
        let is_it = |it: &&(String, String, &str)| {
            it.0 == name && version.as_ref().is_none_or(|version| it.1 == *version)
        };
        let Some((_, version, package)) = packages.iter().find(is_it) else { continue };
        if name != root && !found.entry(name.clone()).or_default().insert(version.clone()) {
            continue;
        }
        for line in package.lines().filter_map(|line| line.strip_prefix(" \"")) {
            let mut words = line.trim_end_matches([',', '"']).split(' ');
            let of = words.next().expect("a name");
            if name != root || wanted(of) {
                todo.push((of.to_owned(), words.next().map(str::to_owned)));
            }
        }
    }
    found
}

/// What the library is made of is the same wherever it is measured, fuzzed or tested.
fn check_same_versions(cargo_toml: &str, cargo_lock: &str, path: &str, other: &str) -> Findings {
    let direct = cargo_toml.split_once("[dependencies]\n").map_or("", |(_, rest)| rest);
    let direct = direct.lines().take_while(|line| !line.starts_with('['));
    let direct = direct.filter(|line| !line.starts_with('#') && !line.contains("optional = true"));
    let direct: BTreeSet<&str> = direct.filter_map(|line| Some(line.split_once(" =")?.0)).collect();
    let ours = locked_below(cargo_lock, "ringwire", |name| direct.contains(name));
    let theirs = locked_below(other, "ringwire", |name| direct.contains(name));
    let mut findings = Findings::new();
    for name in direct.iter().filter(|&&name| !theirs.contains_key(name)) {
        findings.push(format!("{path}: no `{name}`, which the library needs"));
    }
    for (name, versions) in ours {
        if theirs.get(&name).is_some_and(|other| *other != versions) {
            let other = &theirs[&name];
            findings.push(format!("{path}: `{name}` {other:?}, in Cargo.lock {versions:?}"));
        }
    }
    findings
}

/// The value of `key = "…"` in the package section.
fn package_value<'a>(cargo_toml: &'a str, key: &str) -> Option<&'a str> {
    cargo_toml.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches('"'))
    })
}

/// `pub const KERNEL_MIN: (u32, u32) = (6, 1);` → `6.1`.
fn kernel_min(probe: &str) -> Option<String> {
    let code = blank(probe);
    let (_, rest) = code.split_once("const KERNEL_MIN: (u32, u32) = (")?;
    let (numbers, _) = rest.split_once(')')?;
    let (major, minor) = numbers.split_once(',')?;
    Some(format!("{}.{}", major.trim(), minor.trim()))
}

fn check_readme(readme: &str, cargo_toml: &str, probe: &str) -> Findings {
    let mut findings = Findings::new();
    let mut require = |text: String, fact: &str| {
        // `Linux 6.1` must not be satisfied by `Linux 6.12`.
        let found = readme
            .match_indices(&text)
            .any(|(at, _)| !readme[at + text.len()..].starts_with(|c: char| c.is_ascii_digit()));
        if !found {
            findings.push(format!("README.md: `{text}` is missing: {fact}"));
        }
    };
    match package_value(cargo_toml, "rust-version") {
        Some(version) => require(format!("Rust {version}"), "rust-version in Cargo.toml"),
        None => require("rust-version".into(), "Cargo.toml has no rust-version"),
    }
    match kernel_min(probe) {
        Some(version) => require(format!("Linux {version}"), "KERNEL_MIN in src/sys/probe/mod.rs"),
        None => require("KERNEL_MIN".into(), "src/sys/probe/mod.rs has no `pub const KERNEL_MIN`"),
    }
    if !readme.lines().any(|line| line.trim() == "cargo test") {
        findings.push("README.md: no line `cargo test`, which scripts/ci.sh runs".into());
    }
    findings
}

/// The index of records names every record, `machine/date…` without an ending, and no other. A
/// name that begins with a hyphen has the date of the one before.
fn check_index(index: &str, records: &BTreeSet<String>) -> Findings {
    let mut named = BTreeSet::new();
    let (mut machine, mut date) = ("", "");
    for line in index.lines() {
        machine = line.strip_prefix("## ").unwrap_or(machine);
        let Some(cell) = line.strip_prefix("| `2").and_then(|_| line.split('|').nth(1)) else {
            continue;
        };
        for name in cell.split('`').skip(1).step_by(2) {
            let day = name.get(..10).filter(|_| !name.starts_with('-'));
            date = day.unwrap_or(date);
            let date = if day.is_some() { "" } else { date };
            named.insert(format!("{machine}/{date}{name}"));
        }
    }
    let missing = records.difference(&named).map(|name| format!("{name} is not in the index"));
    let strange = named.difference(records).map(|name| format!("there is no record {name}"));
    missing.chain(strange).collect()
}

fn records() -> BTreeSet<String> {
    let mut records = BTreeSet::new();
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("a folder of this repository");
        entries.map(|entry| entry.expect("readable").path()).collect()
    };
    let stem = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    for machine in entries(&root().join("benches/record")) {
        for record in machine.is_dir().then(|| entries(&machine)).into_iter().flatten() {
            let is_record = record.extension().is_some_and(|end| end == "txt" || end == "jsonl");
            if is_record {
                records.insert(format!("{}/{}", stem(&machine), stem(&record)));
            }
        }
    }
    records
}

#[track_caller]
fn report(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n  {}", findings.len(), findings.join("\n  "));
}

/// Runs `check` over the sources below `folders`.
#[track_caller]
fn check_all(folders: &[&str], check: fn(&str, &str) -> Findings) {
    let files: BTreeMap<_, _> = folders.iter().flat_map(|folder| sources(folder)).collect();
    assert!(files.contains_key("src/lib.rs"), "the sources were found");
    let findings: Findings = files.iter().flat_map(|(path, source)| check(path, source)).collect();
    report(&findings);
}

#[test]
fn imports_point_down() {
    check_all(&["src"], check_layers);
}

#[test]
fn unsafe_only_in_sys() {
    check_all(&["src", "examples", "fuzz", "loom"], check_unsafe);
}

#[test]
fn files_open_with_a_header_and_lines_are_short() {
    check_all(&["src", "tests", "benches", "examples", "fuzz", "loom"], check_form);
}

#[test]
fn nothing_unfinished_and_no_unwrap() {
    check_all(&["src", "benches", "examples"], check_unfinished);
}

/// A process that is killed leaves its registry: in the machine's memory, unless told otherwise.
fn check_registries(path: &str, source: &str) -> Findings {
    let mut findings = Findings::new();
    let starts = |name: &str| source.match_indices(name).map(|(at, _)| at).collect::<Vec<_>>();
    let has_place = ["XDG_RUNTIME_DIR", "registry_directory"].iter().any(|it| source.contains(it));
    if !has_place && source.contains("CARGO_BIN_EXE_ringwire") {
        findings.push(format!("{path}: the command's registries are in the usual place"));
    }
    for at in [starts("Server::builder()"), starts("Node::builder()")].concat() {
        let statement = &source[at..];
        let statement = &statement[..statement.find(";\n").unwrap_or(statement.len())];
        if statement.contains(".start()") && !statement.contains(".config(") {
            let line = source[..at].lines().count();
            findings.push(format!("{path}:{line}: its registry is in the usual place"));
        }
    }
    for at in [starts("Config::builder()"), starts("Config::default()")].concat() {
        let statement = &source[at..];
        let end = statement.find("\n}").unwrap_or(statement.len());
        let end = statement.find(";\n").unwrap_or(end).min(end);
        let rest = statement[end..].lines().take(4).collect::<String>();
        if !statement[..end].contains("registry") && !rest.contains(".registry") {
            let line = source[..at].lines().count();
            findings.push(format!("{path}:{line}: its registry is in the usual place"));
        }
    }
    findings
}

#[test]
fn tests_leave_no_registries_behind() {
    for (path, source) in sources("tests") {
        if path != "tests/tidy.rs" {
            report(&check_registries(&path, &source));
        }
    }
    fails(check_registries, "tests/a.rs", "fn f() {\n    let c = Config::builder().build();\n}\n");
    fails(check_registries, "tests/a.rs", "let n = Node::builder().start().unwrap();\n");
    passes(check_registries, "tests/a.rs", "let n = Node::builder().config(c).start();\n");
    fails(check_registries, "tests/a.rs", "Command::new(env!(\"CARGO_BIN_EXE_ringwire\"));");
    passes(check_registries, "tests/a.rs", "let c = Config::builder().registry(false).build();\n");
}

#[test]
fn every_record_is_in_the_index() {
    report(&check_index(&read("benches/record/README.md"), &records()));
}

#[test]
fn every_dependency_has_a_reason() {
    report(&check_reasons(&read("Cargo.toml")));
}

#[test]
fn no_c_toolchain_is_needed() {
    report(&check_no_c(&read("Cargo.lock")));
}

#[test]
fn library_is_the_same_in_every_lock_file() {
    let (cargo_toml, cargo_lock) = (read("Cargo.toml"), read("Cargo.lock"));
    for path in ["benches/peers/Cargo.lock", "fuzz/Cargo.lock"] {
        report(&check_same_versions(&cargo_toml, &cargo_lock, path, &read(path)));
    }
}

#[test]
fn instructions_are_counted_of_what_ships() {
    report(&check_counted_profile(&read("Cargo.toml"), &read("fuzz/Cargo.toml")));
}

#[test]
fn ci_runs_the_readme_test_command() {
    let script = read("scripts/ci.sh");
    assert!(script.lines().any(|line| line.trim() == "cargo test"), "word for word");
    assert!(read(".ci/run").contains("exec scripts/ci.sh"), "CI runs the script");
}

#[test]
fn readme_agrees_with_the_code() {
    // Until there is a README, nothing can disagree with it.
    if root().join("README.md").exists() {
        report(&check_readme(
            &read("README.md"),
            &read("Cargo.toml"),
            &read("src/sys/probe/mod.rs"),
        ));
    }
}

// ---- the checks can fail -----------------------------------------------------------------------

/// Each sample is wrong in one way, and `check` must say so.
#[track_caller]
fn fails(check: fn(&str, &str) -> Findings, path: &str, source: &str) {
    assert_eq!(check(path, source).len(), 1, "{path}: {source:?}: {:?}", check(path, source));
}

#[track_caller]
fn passes(check: fn(&str, &str) -> Findings, path: &str, source: &str) {
    report(&check(path, source));
}

#[test]
fn wrong_imports_are_found() {
    fails(check_layers, "src/wire/decode.rs", "use crate::session::Lane;");
    fails(check_layers, "src/wire/decode.rs", "use crate::config::Config;");
    fails(check_layers, "src/wire/decode.rs", "use crate::Codec;");
    fails(check_layers, "src/session/mod.rs", "use crate::{error::CloseReason, reactor::Turn};");
    fails(check_layers, "src/session/mod.rs", "use crate::{\n    wire::{Frame, Kind},\n sys,\n};");
    fails(check_layers, "src/session/mod.rs", "fn f() { crate::sys::ring::enter() }");
    fails(check_layers, "src/session/mod.rs", "use std::net::TcpStream;");
    fails(check_layers, "src/session/mod.rs", "fn f() { let now = Nanos::now(); }");
    fails(check_layers, "src/sys/ring.rs", "use crate::wire::Frame;");
    fails(check_layers, "src/mem/pool.rs", "use crate::sys::ring::Ring;");
    fails(check_layers, "src/reactor/mod.rs", "use crate::server::Server;");
    fails(check_layers, "src/error.rs", "use crate::sys::ring::Ring;");
    fails(check_layers, "src/novel.rs", "");
    fails(check_layers, "src/wire/mod.rs", "use super::session::Lane;");
    fails(check_layers, "src/wire/decode.rs", "use super::super::session::Lane;");
    passes(check_layers, "src/wire/decode.rs", "use super::header::Kind;");
    passes(check_layers, "src/error.rs", "use crate::sys::probe::RingError;");
    passes(check_layers, "src/session/lane.rs", "use crate::{mem::Block, wire::Frame};");
    passes(check_layers, "src/wire/mod.rs", "// crate::sys\nconst S: &str = \"crate::sys\";");
    passes(check_layers, "src/wire/a.rs", "#[cfg(test)]\nmod tests { use crate::config::Config; }");
    passes(check_layers, "src/wire/tests.rs", "use crate::config::Config;");
    passes(check_layers, "src/wire/a.rs", "macro_rules! m { () => { $crate::Codec::Rkyv } }");
    passes(check_layers, "src/lib.rs", "pub use crate::server::Server;");
}

#[test]
fn misplaced_unsafe_is_found() {
    fails(check_unsafe, "src/mem/pool.rs", "fn f() { unsafe { g() } }");
    fails(check_unsafe, "src/mem/pool.rs", "#![allow(unsafe_code)]");
    fails(check_unsafe, "src/lib.rs", "#![deny(unsafe_code)]\n#[allow(unsafe_code)]\nmod mem;");
    fails(check_unsafe, "src/lib.rs", "pub mod wire;");
    fails(check_unsafe, "examples/echo.rs", "fn f() { unsafe { g() } }");
    passes(
        check_unsafe,
        "src/lib.rs",
        "#![deny(unsafe_code)]\n#[allow(unsafe_code)]\npub mod sys;",
    );
    passes(check_unsafe, "src/sys/ring.rs", "unsafe { g() }");
    passes(check_unsafe, "src/mem/mod.rs", "// no unsafe here\nconst S: &str = \"unsafe\";");
}

#[test]
fn bad_form_is_found() {
    fails(check_form, "src/a.rs", "fn f() {}\n");
    fails(check_form, "src/a.rs", &format!("//! Fine.\n// {}\n", "x".repeat(98)));
    passes(check_form, "src/a.rs", &format!("//! Fine.\n// {}\n", "ä".repeat(97)));
}

#[test]
fn unfinished_code_is_found() {
    fails(check_unfinished, "src/a.rs", "fn f() { todo!() }");
    fails(check_unfinished, "benches/a.rs", "fn f() { dbg!(1); }");
    fails(check_unfinished, "src/a.rs", "fn f() { unimplemented!() }");
    fails(check_unfinished, "src/a.rs", "fn f() { g().unwrap(); }");
    fails(check_unfinished, "src/a.rs", "#[cfg(test)]\nmod tests {}\nfn f() { g().unwrap(); }");
    passes(check_unfinished, "src/a.rs", "#[cfg(test)]\nmod tests { fn f() { g().unwrap() } }");
    passes(check_unfinished, "src/a.rs", "//! x.unwrap() and todo!()\nconst C: char = '\"';");
    passes(check_unfinished, "src/a.rs", "const R: &str = r#\"a \" todo!()\"#;");
}

#[test]
fn wrong_manifests_are_found() {
    let unreasoned = "[dependencies]\n# Why.\na = \"1\"\nb = \"2\"\n[features]\nc = []\n";
    assert_eq!(check_reasons(unreasoned), ["Cargo.toml:4: no reason above `b = \"2\"`"]);
    let package = |name, wanted| {
        format!("[[package]]\nname = \"{name}\"\ndependencies = [\n \"b\",\n \"{wanted}\",\n]\n")
    };
    let locked = package("a", "cc") + &package("b", "ccc") + &package("d", "cc 1.2.0");
    let expected = ["a", "d"].map(|name| format!("Cargo.lock: `{name}` needs a C toolchain: `cc`"));
    assert_eq!(check_no_c(&locked), expected);
    assert!(check_no_c(&package("iana-time-zone-haiku", "cc")).is_empty());
}

#[test]
fn versions_that_differ_are_found() {
    let cargo = "[dependencies]\n# Why.\na = \"1\"\nc = { optional = true }\n[lib]\n";
    let package = |name: &str, version: &str, wanted: &[&str]| {
        let wanted: String = wanted.iter().map(|it| format!(" \"{it}\",\n")).collect();
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\
             dependencies = [\n{wanted}]\n\n"
        )
    };
    let lock = |b: &str, c: &str, wanted: &[&str]| {
        package("a", "1.0.0", &[&format!("b {b}")])
            + &package("b", "2.0.0", &[])
            + &package("b", "2.0.1", &[])
            + &package("c", c, &[])
            + &package("ringwire", "0.1.0", wanted)
    };
    let ours = lock("2.0.0", "1.0.0", &["a", "c"]);
    let check = |other: &str| check_same_versions(cargo, &ours, "other.lock", other).len();
    assert_eq!(check(&ours), 0);
    // What is optional, or of others there, may differ.
    assert_eq!(check(&lock("2.0.0", "1.0.1", &["a", "c"])), 0);
    assert_eq!(check(&lock("2.0.1", "1.0.0", &["a"])), 1);
    assert_eq!(check(&lock("2.0.0", "1.0.0", &[])), 1);
}

#[test]
fn profile_that_does_not_ship_is_found() {
    let cargo = "[package]\n\n[profile.release]\nlto = \"thin\"\n\n[lints.rust]\na = 1\n";
    let check = |release: &str, counted: &str| {
        let fuzz = format!(
            "[package]\n\n[profile.release]\n{release}\n[profile.instructions]\n\
             inherits = \"release\"\n{counted}"
        );
        check_counted_profile(cargo, &fuzz).len()
    };
    let both = "lto = \"thin\"\ndebug-assertions = false\n";
    assert_eq!(check("debug-assertions = true\n", both), 0);
    assert_eq!(check("debug-assertions = true\n", "lto = \"thin\"\n"), 1);
    assert_eq!(check("", "opt-level = 1\nlto = \"thin\"\n"), 1);
    assert_eq!(check("", ""), 1);
    assert_eq!(check("panic = \"abort\"\n", both), 1);
}

#[test]
fn readme_that_disagrees_is_found() {
    let cargo = "[package]\nrust-version = \"1.88\"\n";
    let probe = "pub const KERNEL_MIN: (u32, u32) = (6, 1);";
    let check = |readme| check_readme(readme, cargo, probe).len();
    assert_eq!(check("Rust 1.88, Linux 6.1\n```sh\ncargo test\n```"), 0);
    assert_eq!(check("Rust 1.88 or later, Linux 6.12\ncargo test"), 1);
    assert_eq!(check("Rust 1.85, Linux 6.1 or later\ncargo test"), 1);
    assert_eq!(check("Rust 1.88, Linux 6.1. Test with cargo test."), 1);
    assert_eq!(check_readme("Rust 1.88, Linux 6.1\ncargo test", cargo, "").len(), 1);
}

#[test]
fn wrong_index_is_found() {
    let index = "## m\n\n| record | what |\n|---|---|\n| `2026-01-02-a`, `-b` | both |\n\
                 ## n\n| `2026-01-02-a` | c |\n";
    let records = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let all = ["m/2026-01-02-a", "m/2026-01-02-b", "n/2026-01-02-a"];
    assert_eq!(check_index(index, &records(&all)), [""; 0]);
    let wrong = check_index(index, &records(&["m/2026-01-02-a", "m/2026-01-02-b", "n/2026-01-03"]));
    assert_eq!(wrong, ["n/2026-01-03 is not in the index", "there is no record n/2026-01-02-a"]);
}
