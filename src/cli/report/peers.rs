//! What the pages of the suite of other transports have beside those of the bench: its subjects
//! wait each in its own way, so that each has a floor of its own, and the best of the peers stands
//! beside it.
//!
//! Newer files say which figure a case is about and whom each subject is compared with. Of older
//! ones the best peer is found here, by the same rule, and floors are left out.

use super::figure::{Better, Figure, P50, P99, P99_9, RATE, multiple, named};
use super::model::{Case, Entry};

/// A subject's figure as a multiple of its floor's, and of the best peer's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Beside {
    pub(super) floor: Option<f64>,
    pub(super) peer: Option<f64>,
}

/// The figure that the subjects of a case are compared by. Of paced load the rarest percentile that
/// the samples of all of them reach.
pub(super) fn main_figure(case: &Case<'_>) -> Figure {
    let told = case.entries.iter().find_map(|entry| named(entry.row.compared.as_deref()?));
    let is_reached =
        |figure: &Figure| case.entries.iter().all(|entry| figure.shown(entry.row).is_some());
    told.unwrap_or_else(|| match case.scenario {
        "rtt" => P50,
        "paced" => [P99_9, P99].into_iter().find(is_reached).unwrap_or(P50),
        _ => RATE,
    })
}

/// The subjects of a case in one run, the best first.
pub(super) fn ranked<'b, 'a>(case: &'b Case<'a>, run: usize) -> Vec<&'b Entry<'a>> {
    let figure = main_figure(case);
    let mut entries: Vec<&Entry<'a>> = case.of_run(run).collect();
    let value = |entry: &Entry<'_>| (figure.of)(entry.row);
    entries.sort_by(|a, b| match (value(a), value(b)) {
        (Some(a), Some(b)) if figure.better == Better::Higher => b.total_cmp(&a),
        (Some(a), Some(b)) => a.total_cmp(&b),
        // Who has no such figure stands last.
        (a, b) => a.is_none().cmp(&b.is_none()),
    });
    entries
}

/// The best peer of a case in one run.
pub(super) fn best<'b, 'a>(case: &'b Case<'a>, run: usize) -> Option<&'b Entry<'a>> {
    let figure = main_figure(case);
    let is_peer = |entry: &&Entry<'_>| {
        entry.row.role.as_deref() == Some("peer") && (figure.of)(entry.row).is_some()
    };
    ranked(case, run).into_iter().find(is_peer)
}

/// The floor of a subject, where the file says which that is.
pub(super) fn floor<'b, 'a>(case: &'b Case<'a>, entry: &Entry<'_>) -> Option<&'b Entry<'a>> {
    let name = entry.row.floor.as_deref()?;
    case.of_run(entry.run).find(|other| other.row.subject == name)
}

/// How a subject does beside its floor and beside the best peer.
pub(super) fn beside(case: &Case<'_>, entry: &Entry<'_>) -> Beside {
    let figure = main_figure(case);
    let to = |other: Option<&Entry<'_>>| multiple(figure, entry.row, other?.row);
    Beside {
        floor: entry.row.to_floor.or_else(|| to(floor(case, entry))),
        peer: entry.row.to_best_peer.or_else(|| to(best(case, entry.run))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::model::Book;
    use super::super::read::{self, Run};
    use super::*;

    /// A case of four subjects as the suite writes it, and what it judged.
    pub(in crate::cli::report) fn sample() -> Vec<Run> {
        let row = |subject: &str, role: &str, p50: u32, rest: &str| {
            let idle = if role == "peer" { "park" } else { "spin" };
            format!(
                "{{\"scenario\":\"rtt\",\"subject\":\"{subject}\",\"idle\":\"{idle}\",\
                 \"payload_bytes\":64,\"connections\":1,\"rounds\":7,\"samples\":20000,\
                 \"role\":\"{role}\",\"p50_ns\":{p50},\"bulk\":false{rest}}}\n"
            )
        };
        let of = |floor: &str, to_floor: f64, to_peer: f64| {
            format!(
                ",\"compared\":\"p50\",\"floor\":\"{floor}\",\"to_floor\":{to_floor},\
                 \"best_peer\":\"fast\",\"to_best_peer\":{to_peer}"
            )
        };
        let verdict = |figure: &str, other: &str, rest: &str| {
            format!(
                "{{\"scenario\":\"verdict\",\"subject\":\"ringwire-spin\",\"of\":\"rtt\",\
                 \"payload_bytes\":64,\"connections\":1,\"rate_hz\":null,\"bulk\":false,\
                 \"case\":\"rtt 64 B\",\"figure\":\"{figure}\",\"other\":\"{other}\",{rest}}}\n"
            )
        };
        let text = "{\"scenario\":\"machine\",\"cpu\":\"A\"}\n".to_owned()
            + &row("raw-spin", "floor", 1000, &of("raw-spin", 1.0, 0.25))
            + &row("ringwire-spin", "ringwire", 1200, &of("raw-spin", 1.2, 0.3))
            + &row("slow", "peer", 9000, &of("raw-spin", 9.0, 2.25))
            + &row("fast", "peer", 4000, &of("raw-spin", 4.0, 1.0))
            + &row("gone", "peer", 1, ",\"skipped\":\"n/a: no way\"")
            + &row("dead", "peer", 1, ",\"skipped\":\"failed: killed\"")
            + &verdict(
                "p50",
                "raw-spin",
                "\"ratio\":1.2,\"relation\":\"<=\",\"bound\":1.1,\"outcome\":\"missed\",\
                 \"noisy\":true",
            )
            + &verdict(
                "p50",
                "fast",
                "\"ratio\":0.3,\"relation\":\"<=\",\"bound\":0.5,\"outcome\":\"met\"",
            )
            + &verdict(
                "p99.9",
                "fast",
                "\"ratio\":null,\"relation\":\"<=\",\"bound\":1.0,\"outcome\":\"not judged\",\
                 \"lacks\":\"1,050 samples, p99.9 needs 10,000\"",
            );
        read::parse("peers.jsonl", text.as_bytes()).expect("valid lines")
    }

    #[test]
    fn subjects_stand_in_order_beside_floor_and_peer() {
        let mut runs = sample();
        let names = |runs: &[Run]| {
            let book = Book::new(runs);
            let names = ranked(&book.cases[0], 0).into_iter().map(|entry| entry.label.clone());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&runs), "raw-spin ringwire-spin fast slow");
        let of = |runs: &[Run]| {
            let book = Book::new(runs);
            beside(&book.cases[0], &book.cases[0].entries[1])
        };
        assert_eq!(of(&runs), Beside { floor: Some(1.2), peer: Some(0.3) });
        // Older files do not say who the floor is.
        for row in &mut runs[0].rows {
            (row.compared, row.floor, row.to_floor, row.to_best_peer) = (None, None, None, None);
        }
        assert_eq!(of(&runs), Beside { floor: None, peer: Some(0.3) });
        assert_eq!(names(&runs), "raw-spin ringwire-spin fast slow");
        // Of rates the largest is the best, and who has none the last.
        for (row, rate) in runs[0].rows.iter_mut().zip([Some(1.0), None, Some(3.0), Some(2.0)]) {
            (row.scenario, row.frames_per_s) = ("stream".into(), rate);
        }
        assert_eq!(names(&runs), "slow fast raw-spin ringwire-spin");
    }

    #[test]
    fn paced_is_about_what_the_samples_reach() {
        let mut runs = sample();
        let mut title = |samples: u64| {
            for row in &mut runs[0].rows {
                row.scenario = "paced".into();
                row.compared = None;
                (row.samples, row.p99_ns, row.p99_9_ns) = (Some(samples), Some(2.0), Some(3.0));
            }
            main_figure(&Book::new(&runs).cases[0]).title
        };
        assert_eq!((title(10_000), title(9_999), title(999)), ("p99.9", "p99", "p50"));
    }
}
