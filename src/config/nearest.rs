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

/// Letters to insert, drop or replace on the way from one word to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (above, a) in from.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (left, b) in to.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[left + 1];
            row[left + 1] = replaced.min(diagonal + 1).min(row[left] + 1);
        }
    }
    row[row.len() - 1]
}
