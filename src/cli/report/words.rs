//! The sentences of a page: how its figures came about, and what one must know to read a case.

use super::model::{Book, Case};
use super::text::{cut, escape};

/// Why there are no goals.
pub(super) fn no_goals(book: &Book<'_>) -> &'static str {
    if book.cases.iter().any(Case::is_of_peers) {
        "the file holds no verdicts: it is older than that, and its run has only printed them"
    } else {
        "none of these cases has a goal"
    }
}

/// What one must know to read a case.
pub(super) fn note(case: &Case<'_>) -> Option<&'static str> {
    if case.is_of_peers() {
        return note_of_peers(case);
    }
    if case.is_reliable {
        return Some(
            "Reliable messages, kept until the peer has confirmed them, beside best effort.",
        );
    }
    match case.scenario {
        "rtt" if case.fewer.is_some() => {
            Some("Each message waits for those of all other connections: compare rates.")
        }
        "stream" => {
            Some("socket: the same frames over plain sockets. raw: as many bytes without frames.")
        }
        "failover" => {
            Some("From a cut link to the answer over the next one, one round trip included.")
        }
        "paced" | "mixed" if case.requests_per_s.is_some() => Some(
            "Requests at a fixed rate. Latency counts from the instant a request was due, not \
             from when it was sent: a stall delays all that were due meanwhile, and each of them \
             counts. clock, where it is there, is no transport: how late the later of two threads \
             was that only read the clock.",
        ),
        "mixed" => {
            Some("Critical round trips beside a stream of 1 MiB messages; bulk/s is what that had.")
        }
        "fan-in" => Some(
            "memory/conn: resident, both ends together; of the first round, as later ones use its \
             memory again. In older files it is the median.",
        ),
        "cores" => Some("As many clients as reactors; with too few cores they share them."),
        "idle" => Some("CPU: of both ends, as a share of one core; heartbeats included."),
        _ => None,
    }
}

/// The same of a case of other transports.
fn note_of_peers(case: &Case<'_>) -> Option<&'static str> {
    match case.scenario {
        "paced" => Some(
            "Requests at a fixed rate. Latency counts from the instant a request was due, not \
             from when it was sent: a stall delays all that were due meanwhile, and each of them \
             counts. The wait for that instant spins in every subject.",
        ),
        "stream" => Some("One way; the receiver looks at every message, and says how many came."),
        "fan-in" => Some(
            "One client, with a request in flight on each connection. memory/conn: resident, what \
             a connection adds to the server.",
        ),
        _ => None,
    }
}

/// How the figures came about, and what the drawings mean.
pub(super) fn method(book: &Book<'_>) -> String {
    let mut rounds: Vec<String> = Vec::new();
    for entry in book.cases.iter().flat_map(|case| &case.entries) {
        let text = entry.row.rounds.map_or("unknown".into(), |rounds| rounds.to_string());
        if !rounds.contains(&text) {
            rounds.push(text);
        }
    }
    let files: Vec<String> = book.runs.iter().map(|run| cut(&run.file, 60)).collect();
    // A page may show runs of both kinds.
    let is_of_peers = book.cases.iter().any(Case::is_of_peers);
    let is_of_bench = book.cases.iter().any(|case| !case.is_of_peers());
    let mut work = String::from("The subjects of a case do the same work. ");
    if is_of_bench {
        work += "Those of the bench do it over TCP on 127.0.0.1, between threads pinned to their \
            cores unless the case says otherwise. ";
    }
    if is_of_peers {
        work += "Ringwire and other transports each do it in two processes kept on cores of their \
            own, over TCP on 127.0.0.1, or over Unix sockets where the name says so; a round \
            starts with fresh ones. ";
    }
    let paragraphs = [
        format!(
            "{work}They take turns round by round, in alternating order, because a shared machine \
             drifts by more than what is to be seen. Rounds: {}.",
            rounds.join(", ")
        ),
        "A figure is the median over the rounds of that round's figure, but for p99.9, p99.99 and \
         the maximum: those are of the samples of all rounds together, where the file has their \
         histogram, as all new ones have. Below a figure stand the lowest and the highest of the \
         rounds, where the file says so. Samples are those of all rounds. A round trip is two \
         frames. Bytes are payload bytes; CPU time and calls are those of both ends. \
         enters: io_uring_enter(2). direct: send(2) and recv(2) past the ring."
            .into(),
        "Latency by percentile: the horizontal axis is logarithmic in 1/(1-p), so that each \
         further nine is as wide as the one before. Marks are the figures of the table, up to p99 \
         medians of the rounds; the line is the distribution of all rounds together where the file \
         has it, and joins the marks where not. A mark off its line says that the rounds differed: \
         one bad round moves the line and not the median. The maximum stands at the number of \
         samples."
            .into(),
        format!(
            "A percentile is shown where at least {:.0} samples of all rounds lie beyond it, and \
             up to p99 at least one of each round: of fewer it is the maximum. {}",
            super::figure::SAMPLES_BEYOND_MIN,
            if is_of_peers {
                "Goals stand here as the run has judged them, on the terminal and in its file: \
                 those that take more samples than there were are not judged."
            } else {
                "Goals are judged by what was measured, as on the terminal."
            }
        ),
        "Ratios are of ringwire's figure to another subject's in the same run. Of latencies the \
         smaller is the better, of rates the larger. Of p50, p99 and frames/s they are the medians \
         of the rounds' own ratios, whose sides ran within one turn of all subjects, and their \
         spread is the interval of that median at 95 % (the sign test's; of fewer than six rounds, \
         of all their ratios). Between runs it is the lowest and the highest of the rounds, which \
         is wider. In older files, which have no rounds one by one, they are ratios of the \
         figures, and the spread sets the best rounds of one side against the worst of the other, \
         which is wider still. What a file says of itself is shown as it stands: older suites of \
         other transports judged by ratios of medians."
            .into(),
        "A goal is a bound for a ratio or for a time. A ratio is judged before it is rounded, and \
         shown with as many decimals as tell on which side of its bound it is. Rounds that differ \
         by more than a factor of two, but for a tenth at either end, are called noisy, and so are \
         verdicts whose bound lies within the interval of their ratio: more rounds would tell. A \
         clock beside a verdict about a tail is what two ends that only read the time had in \
         rounds of their own, as a multiple of the same peer's figure: what the machine did to \
         those who spin in such minutes."
            .into(),
    ];
    let mut out = String::from("<section id=\"method\"><h2>Method</h2>\n");
    for paragraph in paragraphs {
        out += &format!("<p>{}</p>\n", escape(&paragraph));
    }
    out += &format!(
        "<p>Made by ringwire {} with <code>ringwire report {}</code>.</p></section>\n",
        env!("CARGO_PKG_VERSION"),
        escape(&files.join(" "))
    );
    out
}
