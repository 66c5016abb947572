//! The name that was probably meant by one that does not exist. `benches/peers` has this file, too.
//!
//! Costs the product of both lengths for each name there is, of which there are some dozens.

/// More of a name is not looked at.
const NAME_CHARS_MAX: usize = 40;

/// One that `name` is a part of, or that a few letters or another order of the words make of it.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name: String = name.chars().take(NAME_CHARS_MAX).collect::<String>().to_lowercase();
    let name_sorted = with_sorted_words(&name);
    let edits = |known: &'a str| {
        let sorted = distance(&with_sorted_words(known), &name_sorted);
        (distance(known, &name).min(sorted), known)
    };
    let is_near = |&(edits, known): &(usize, &'a str)| {
        edits <= name.len() / 3 || (name.len() >= 4 && known.contains(&*name))
    };
    known.map(edits).filter(is_near).min().map(|(_, known)| known)
}

fn with_sorted_words(name: &str) -> String {
    let mut words: Vec<&str> = name.split(['_', '-']).collect();
    words.sort_unstable();
    words.join("_")
}

/// Letters to insert, drop, replace or swap with the next on the way from one word to the other
/// (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let [from, to] = [from, to].map(|word| word.chars().collect::<Vec<_>>());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (above, a) in from.iter().enumerate() {
        let mut row = vec![above + 1];
        for (left, b) in to.iter().enumerate() {
            let replaced = rows[above][left] + usize::from(a != b);
            let mut edits = replaced.min(rows[above][left + 1] + 1).min(row[left] + 1);
            if above > 0 && left > 0 && (a, b) == (&to[left - 1], &from[above - 1]) {
                edits = edits.min(rows[above - 1][left - 1] + 1);
            }
            row.push(edits);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}
