//! The whole page: made of rows as a bench writes them, of rows of older files, and of hostile
//! ones.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::histogram::tests::{encode, sample};
use super::sketch::tests::{texts, well_formed};
use super::*;

/// Elements that HTML knows without an end.
const VOID: [&str; 1] = ["meta"];

/// Reads a page as XML and as HTML does: `<div/>` would be an element that is never closed.
#[track_caller]
fn check_page(page: &Page) {
    let document = well_formed(&page.html);
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let markup = &page.html[node.range()];
        let name = node.tag_name().name();
        let in_svg =
            node.ancestors().any(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "svg")));
        assert!(in_svg || VOID.contains(&name) || !markup.ends_with("/>"), "{markup}");
        for name in ["src", "xlink:href", "onload", "onclick", "style"] {
            assert!(!in_svg || node.attribute(name).is_none_or(|_| name == "style"), "{markup}");
            assert!(name == "style" || node.attribute(name).is_none(), "{markup}");
        }
        if let Some(link) = node.attribute("href") {
            let target = link.strip_prefix('#').unwrap_or_else(|| panic!("{link} leads elsewhere"));
            let is_it = |node: &roxmltree::Node<'_, '_>| node.attribute("id") == Some(target);
            assert_eq!(document.descendants().filter(is_it).count(), 1, "{link}");
        }
    }
    for forbidden in ["<script", "<link", "<img", "@import", "url(", "http:", "https:"] {
        let html = page.html.replace("http://www.w3.org/2000/svg", "");
        let html = html.replace("http://www.w3.org/1999/xhtml", "");
        assert!(!html.contains(forbidden), "{forbidden}: a page needs nothing else");
    }
    for drawing in &page.drawings {
        well_formed(&drawing.file());
    }
}

/// Everything a bench may write: histograms, series, several sizes, many connections, errors.
fn rich() -> String {
    let mut text = String::from("{\"scenario\":\"machine\",\"cpu\":\"A\",\"kernel\":\"6.1\"}\n");
    let subjects = ["socket", "tokio", "ringwire"];
    for (scenario, n) in [("rtt", 1), ("paced", 2)] {
        for (subject, seed) in subjects.iter().zip(n..) {
            let histogram = sample(seed, 20_000);
            let at = |quantile| histogram.value_at_quantile(quantile);
            let series = match scenario {
                "paced" => {
                    ",\"series\":{\"points\":[[0.1,7e3,9e3,2e4],[0.2,7e3,8e3,5e5]],\
                     \"outliers\":[[0.17,5e5]]}"
                }
                _ => "",
            };
            text += &format!(
                "{{\"scenario\":\"{scenario}\",\"subject\":\"{subject}\",\"idle\":\"spin\",\
                 \"payload_bytes\":64,\"connections\":1,\"rounds\":7,\"samples\":20000,\
                 \"p50_ns\":{},\"p99_ns\":{},\"p99_9_ns\":{},\"max_ns\":{},\"p50_ns_low\":{},\
                 \"p50_ns_high\":{},\"errors\":0,\"histogram_v2\":\"{}\"{series}}}\n",
                at(0.5),
                at(0.99),
                at(0.999),
                at(1.0),
                at(0.4),
                at(0.6),
                encode(&histogram),
            );
        }
    }
    for bytes in [64, 4_096] {
        for (subject, rate) in ["socket", "raw", "ringwire"].iter().zip([9e6, 2e7, 8e6]) {
            text += &format!(
                "{{\"scenario\":\"stream\",\"subject\":\"{subject}\",\"idle\":\"spin\",\
                 \"payload_bytes\":{bytes},\"connections\":1,\"rounds\":7,\"samples\":9,\
                 \"p50_ns\":null,\"frames_per_s\":{rate},\"bytes_per_s\":{}}}\n",
                rate * f64::from(bytes)
            );
        }
    }
    text
}

fn page_of(text: &str) -> Page {
    render(&read::parse("sample.jsonl", text.as_bytes()).expect("valid lines"))
}

fn render(runs: &[Run]) -> Page {
    let page = page::render(runs);
    check_page(&page);
    page
}

#[test]
fn page_shows_everything_there_is() {
    let page = page_of(&rich());
    let titles: Vec<&str> = page.drawings.iter().map(|drawing| &*drawing.title).collect();
    let expected = [
        "ringwire as a multiple of the others",
        "rtt 64 B spin: latency by percentile",
        "paced 64 B spin: latency by percentile",
        "paced 64 B spin: socket over time",
        "paced 64 B spin: tokio over time",
        "paced 64 B spin: ringwire over time",
        "stream 64 B spin: frames per second",
        "stream 4 KiB spin: frames per second",
        "stream spin: bytes/s by payload",
        "stream spin: frames/s by payload",
    ];
    assert_eq!(titles, expected);
    assert_eq!(page.summary, "1 run, 4 cases, 3 of 3 goals met");
    let document = well_formed(&page.html);
    let headings = texts(&document, "h2");
    let cases = ["rtt 64 B spin", "paced 64 B spin", "stream 64 B spin", "stream 4 KiB spin"];
    for heading in
        ["At a glance", "Throughput by payload", "Machine", "Method"].iter().chain(&cases)
    {
        assert!(headings.iter().any(|text| text == heading), "{heading}: {headings:?}");
    }
    // Each drawing stands there for a desk and for a phone.
    let svgs = document
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "svg")));
    assert_eq!(svgs.count(), 2 * page.drawings.len());
    assert_eq!(page.html, page_of(&rich()).html, "the same rows give the same page");
}

/// Six of them are enough to see that something is wrong.
#[test]
fn warnings_beyond_the_first_are_folded_away() {
    let row = |errors: u64| {
        format!(
            "{{\"scenario\":\"rtt\",\"subject\":\"ringwire\",\"payload_bytes\":{},\
             \"p50_ns\":8000,\"errors\":{errors}}}\n",
            errors * 64
        )
    };
    for (rows, said) in [(7, "and 1 more warning"), (8, "and 2 more warnings")] {
        let page = page_of(&(1..=rows).map(row).collect::<String>());
        let document = well_formed(&page.html);
        assert!(texts(&document, "summary").contains(&said.into()), "{said}");
        let lists = texts(&document, "li");
        assert_eq!(lists[0], "rtt 64 B, ringwire: 1 wrong answer");
        assert_eq!(lists[1], "rtt 128 B, ringwire: 2 wrong answers");
    }
}

/// Goals as the run has judged them, each way it was held; who could not do a case at the end.
#[test]
fn other_transports_have_a_page() {
    let page = render(&peers::tests::sample());
    assert_eq!(page.summary, "1 run, 1 case, 1 of 2 goals met, 1 not judged");
    let document = well_formed(&page.html);
    assert!(texts(&document, "p").contains(&"1 of 2 goals met, 1 not judged".into()));
    assert!(!page.html.contains("none of these cases has a goal"));
    assert!(page.html.contains("two processes kept on cores"), "and no threads of the bench");
    assert!(!page.html.contains("between threads"));
    let lists = texts(&document, "li");
    assert_eq!(lists, ["rtt 64 B, dead: failed: killed", "gone: no way (all cases)"]);
    let headings = texts(&document, "h2");
    assert_eq!(headings.last().map(|text| &**text), Some("Left out"));
    let folded = document.descendants().find(|node| node.has_tag_name(tag("details")));
    let folded = &page.html[folded.expect("a list").range()];
    for said in ["gone: no way (all cases)", "1 subject not in every case"] {
        assert!(folded.contains(said), "{said}: {folded}");
    }

    // A file from before that has no verdicts, and says so instead of denying them.
    let mut older = peers::tests::sample();
    older[0].told.clear();
    let page = render(&older);
    assert!(page.html.contains("the file holds no verdicts"));
    // The bench says what it is as before, and both do where both are.
    let mut both = peers::tests::sample();
    both.extend(read::parse("bench", rich().as_bytes()).expect("valid lines"));
    let page = render(&both);
    assert!(page.html.contains("two processes kept on cores"));
    assert!(page.html.contains("between threads"));
    assert!(!page_of(&rich()).html.contains("two processes"));
}

fn tag(name: &str) -> (&'static str, &str) {
    ("http://www.w3.org/1999/xhtml", name)
}

/// What a row says of its tails is not believed where its histogram is there.
#[test]
fn tails_on_the_page_are_of_all_rounds() {
    let text: String = rich()
        .lines()
        .map(|line| {
            let (head, rest) = line.split_once("\"max_ns\":").unwrap_or((line, ""));
            match rest.split_once(',') {
                Some((_, rest)) => format!("{head}\"max_ns\":66200,{rest}\n"),
                None => format!("{line}\n"),
            }
        })
        .collect();
    assert!(text.contains("\"max_ns\":66200"));
    assert!(!page_of(&text).html.contains("66.2 µs"));
    assert!(page_of(&text).html.contains("of the samples of all rounds together"));
}

#[test]
fn every_subject_is_in_every_legend() {
    let page = page_of(&rich());
    for drawing in &page.drawings {
        let subjects: &[&str] = match &*drawing.title {
            title if title.contains("latency by percentile") => &["socket", "tokio", "ringwire"],
            title if title.starts_with("stream") => &["socket", "raw", "ringwire"],
            _ => continue,
        };
        for markup in drawing.inline().split("<svg").skip(1) {
            for subject in subjects {
                assert!(markup.contains(&format!(">{subject}</text>")), "{subject}: {markup}");
            }
        }
    }
}

/// Four subjects with long names take more than half of a page: none of them is out of sight, and
/// on a phone each has a block.
#[test]
fn wide_tables_have_the_page_and_phones_have_blocks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/record/epyc-2vcpu/2026-11-24-mixed.jsonl");
    let runs = read::runs(&path, &read::bytes(&path).expect("recorded")).expect("valid lines");
    let page = render(&runs);
    let document = well_formed(&page.html);
    let subjects = ["ringwire-unloaded", "socket", "ringwire-one-link", "ringwire-express"];
    let mut count = 0;
    for table in document
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/1999/xhtml", "table")))
    {
        let markup = &page.html[table.range()];
        if !subjects.iter().all(|subject| markup.contains(&format!("</i>{subject}</th>"))) {
            continue;
        }
        let class =
            |node: &roxmltree::Node<'_, '_>| node.attribute("class").unwrap_or("").to_owned();
        let around: Vec<String> = table.ancestors().map(|node| class(&node)).collect();
        assert!(!around.contains(&"split".into()), "half of a page is too narrow: {around:?}");
        let steps = around.iter().find_map(|class| class.strip_prefix("fit-"));
        assert!(steps.is_some_and(|steps| steps.parse::<u32>().is_ok_and(|n| n > 4)), "{around:?}");
        count += 1;
    }
    assert_eq!(count, 2, "cases of four subjects");
    let blocks = texts(&document, "h4");
    for subject in subjects {
        assert_eq!(blocks.iter().filter(|title| *title == subject).count(), 2, "{blocks:?}");
    }
    assert!(blocks.contains(&"ringwire-express / socket".into()), "{blocks:?}");
}

#[test]
fn runs_are_compared_with_the_first() {
    let slower = rich().replace("\"frames_per_s\":8e6", "\"frames_per_s\":4e6");
    let page = page_of(&(rich() + &rich() + &slower));
    assert!(page.summary.starts_with("3 runs, 4 cases, "), "{}", page.summary);
    let document = well_formed(&page.html);
    let headings = texts(&document, "h2");
    assert!(headings.contains(&"B against A".into()), "{headings:?}");
    assert!(headings.contains(&"C against A".into()), "{headings:?}");
    let cells = texts(&document, "td");
    assert!(cells.contains(&"no change".into()), "{cells:?}");
    let curve = page.drawings.iter().find(|drawing| drawing.title.contains("by percentile"));
    let legend = texts(&well_formed(&curve.expect("a curve").file()), "text");
    for label in ["A socket", "B ringwire", "C tokio"] {
        assert!(legend.contains(&label.into()), "{label}: {legend:?}");
    }
}

/// What a run does not have is said once, and every run's goals are in the summary.
#[test]
fn runs_of_different_cases_are_told_apart_once() {
    let only_streams: String = rich()
        .lines()
        .filter(|line| line.contains("machine") || line.contains("stream"))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let missed = rich().replace("\"frames_per_s\":8000000", "\"frames_per_s\":4000000");
    let page = page_of(
        &(rich()
            + &only_streams
            + &missed
            + "{\"scenario\":\"machine\"}\n{\"scenario\":\"other\",\"subject\":\"x\"}\n"),
    );
    assert_eq!(page.summary, "4 runs, 5 cases, goals met: A 3 of 3, B 1 of 1, C 2 of 3");
    let document = well_formed(&page.html);
    assert_eq!(page.html.matches("Which run has which case").count(), 1);
    assert!(!page.html.contains("Not in both"), "said once, not for every run");
    let paragraphs = texts(&document, "p");
    let apart: Vec<_> =
        paragraphs.iter().filter(|text| text.contains("no case in common")).collect();
    assert_eq!(apart, ["D and A have no case in common."]);
    let same = page_of(&(rich() + &rich()));
    assert!(!same.html.contains("Which run has which case"), "they have all the same");
}

/// Files of the repository's past have no histograms, no series and fewer keys. On all cores: it
/// grows with every record, and is the longest test here.
#[test]
fn recorded_files_can_be_shown() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/record");
    // Beside the folders is their index.
    let entries = std::fs::read_dir(folder).expect("the records are there");
    let machines = entries.map(|entry| entry.expect("readable").path()).filter(|it| it.is_dir());
    let files = machines.flat_map(|machine| std::fs::read_dir(machine).expect("readable"));
    let files = files.map(|file| file.expect("readable").path());
    let records = files.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    let records: Vec<_> = records.collect();
    assert!(records.len() >= 3, "{} files were found", records.len());

    // ORDERING: Relaxed: hands out numbers, and publishes nothing.
    let next = AtomicUsize::new(0);
    let show_all = || {
        while let Some(path) = records.get(next.fetch_add(1, Relaxed)) {
            let runs = read::runs(path, &read::bytes(path).expect("readable"));
            let page = render(&runs.unwrap_or_else(|error| panic!("{error}")));
            // Sessions that have nothing to say are a table and no drawing.
            let is_drawn = !page.drawings.is_empty() || page.html.contains("<td");
            assert!(is_drawn, "{}", path.display());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(show_all);
        }
    });
}

#[test]
fn hostile_strings_are_text() {
    let evil = "</td></style><script>alert(1)</script>\\u0000\\u001b[31m\\u202e&amp;\\\"'><x y=";
    let text = rich().replace("\"socket\"", &format!("\"{evil}\""));
    let text =
        text.replace("\"rtt\"", &format!("\"{evil}\"")).replace("\"A\"", &format!("\"{evil}\""));
    let mut runs = read::parse("a", text.as_bytes()).expect("valid lines");
    runs[0].file = "<b>\u{1}/../../etc/passwd".into();
    let page = render(&runs);
    assert!(!page.html.contains("<script") && !page.html.contains("<x y"), "escaped");
    assert!(page.html.contains("&lt;script&gt;"), "and not left out");
    for drawing in &page.drawings {
        let name = &drawing.name;
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
    }
}

/// Rows without most of their keys, with zeros, and with the largest and smallest of numbers.
#[test]
fn odd_rows_make_a_page() {
    let odd = "\
        {\"scenario\":\"\",\"subject\":\"\"}\n\
        {\"scenario\":\"rtt\",\"subject\":\"ringwire\",\"p50_ns\":0,\"max_ns\":0,\
         \"frames_per_s\":0}\n\
        {\"scenario\":\"rtt\",\"subject\":\"socket\",\"p50_ns\":1e-300,\
         \"max_ns\":1e18,\"samples\":1}\n\
        {\"scenario\":\"rtt\",\"subject\":\"x\",\"p50_ns\":1e18,\"rounds\":0,\"samples\":0}\n\
        {\"scenario\":\"rtt\",\"subject\":\"y\",\"p50_ns\":5,\"rounds\":18446744073709551615,\
         \"samples\":18446744073709551615,\"max_ns\":9}\n\
        {\"scenario\":\"stream\",\"subject\":\"a\",\"payload_bytes\":18446744073709551615,\
         \"bytes_per_s\":1,\"frames_per_s\":1e-9}\n\
        {\"scenario\":\"stream\",\"subject\":\"a\",\"payload_bytes\":0,\"bytes_per_s\":0}\n\
        {\"scenario\":\"stream\",\"subject\":\"a\",\"payload_bytes\":1,\"bytes_per_s\":1e18}\n\
        {\"scenario\":\"paced\",\"subject\":\"a\",\"series\":{\"points\":[[0,0,0,0]]}}\n\
        {\"scenario\":\"paced\",\"subject\":\"b\",\"series\":{\"points\":[[1e18,1,1,1e18]],\
         \"outliers\":[[0,0],[1e18,1]]}}\n\
        {\"scenario\":\"failover\",\"subject\":\"ringwire\"}\n";
    let page = page_of(odd);
    for markup in
        [&page.html].into_iter().chain(&page.drawings.iter().map(|d| d.file()).collect::<Vec<_>>())
    {
        assert!(!markup.contains("NaN") && !markup.contains("inf"), "{markup}");
    }
    page_of(&format!("{odd}{{\"scenario\":\"machine\"}}\n{odd}"));
}

#[test]
fn names_of_files_are_all_different() {
    let mut taken = Vec::new();
    let names: BTreeSet<String> = (0..5).map(|_| unique("a", "svg", &mut taken)).collect();
    assert_eq!(names.len(), 5);
    let files: Vec<PathBuf> = ["x/run.jsonl", "y/run.jsonl", "..", "/"].map(Into::into).into();
    assert_eq!(line_names(&files), ["run.jsonl", "run-2.jsonl", "bench.jsonl", "bench-2.jsonl"]);
}
