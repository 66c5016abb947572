//! Which cores the two ends run on, where nobody says: the choice of `ringwire bench`.
//!
//! Two that are no hyper-threads of each other where there are, and not the first one, which serves
//! most interrupts, where there are plenty. Spinning ends on one physical core would take turns.

use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity};

use super::options::Options;
use crate::drive::Failure;

/// More cores than these are plenty.
const PLENTY: usize = 4;

/// The cores of the two ends.
#[derive(Debug, PartialEq, Eq)]
pub struct Cores {
    pub server: Vec<usize>,
    pub client: Vec<usize>,
    /// How many this process may run on.
    pub allowed: usize,
}

/// The cores this process may run on.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

impl Cores {
    /// What is asked for, and the best there is for the end that nothing was said of.
    ///
    /// # Errors
    ///
    /// When there is no core at all.
    pub fn choose(options: &Options, allowed: &[usize]) -> Result<Self, Failure> {
        if allowed.is_empty() {
            return Err("no core to run on".into());
        }
        let cores = pick(&options.server_cores, &options.client_cores, allowed, siblings_of);
        if cores.server.iter().any(|core| cores.client.contains(core)) {
            eprintln!("warning: the two ends share a core: spinning subjects take turns on it");
        } else if let Some(siblings) = cores.shared(siblings_of) {
            eprintln!(
                "warning: the two ends are hyper-threads of one core, {siblings:?}: each is slower \
                 than by itself"
            );
        }
        Ok(cores)
    }

    /// The hyper-threads of a physical core that both ends have, if there is one.
    fn shared(&self, siblings_of: impl Fn(usize) -> Vec<usize>) -> Option<Vec<usize>> {
        let mut all = self.server.iter().map(|&core| siblings_of(core));
        all.find(|siblings| self.client.iter().any(|core| siblings.contains(core)))
    }
}

/// The hyper-threads of a core's physical core, itself among them; nothing where that is not known.
pub fn siblings_of(core: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    fs::read_to_string(path).map_or(Vec::new(), |text| list(&text))
}

/// `0,64` or `0-1`.
fn list(text: &str) -> Vec<usize> {
    let numbers = |part: &str| -> Option<Vec<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?..=last.trim().parse().ok()?).collect())
    };
    text.split(',').filter_map(numbers).flatten().collect()
}

fn pick(
    server: &[usize],
    client: &[usize],
    allowed: &[usize],
    siblings_of: impl Fn(usize) -> Vec<usize>,
) -> Cores {
    let candidates = if allowed.len() > PLENTY { &allowed[1..] } else { allowed };
    // Apart from what the other end has; else another at least; else the same.
    let beside = |other: &[usize]| {
        let siblings: Vec<usize> = other.iter().flat_map(|&core| siblings_of(core)).collect();
        let others = || candidates.iter().chain(allowed).filter(|core| !other.contains(core));
        let apart = others().find(|core| !siblings.contains(core));
        vec![*apart.or_else(|| others().next()).unwrap_or(&allowed[0])]
    };
    let server = if server.is_empty() { beside(client) } else { server.to_vec() };
    let client = if client.is_empty() { beside(&server) } else { client.to_vec() };
    Cores { server, client, allowed: allowed.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `0` and `1` are hyper-threads of one core, `2` and `3` of the next.
    fn adjacent(core: usize) -> Vec<usize> {
        vec![core & !1, core | 1]
    }

    /// Four cores, whose second hyper-threads come behind all the first ones.
    fn behind(core: usize) -> Vec<usize> {
        vec![core % 4, core % 4 + 4]
    }

    #[test]
    fn ends_are_no_hyper_threads_of_each_other() {
        let of =
            |server: &[usize], client: &[usize], allowed: &[usize], siblings: fn(usize) -> _| {
                let cores = pick(server, client, allowed, siblings);
                (cores.server, cores.client)
            };
        let one = |server, client| (vec![server], vec![client]);
        let eight: Vec<usize> = (0..8).collect();
        assert_eq!(of(&[], &[], &[0, 1, 2, 3], adjacent), one(0, 2));
        // Not the first of plenty either.
        assert_eq!(of(&[], &[], &eight, adjacent), one(1, 2));
        assert_eq!(of(&[], &[], &eight, behind), one(1, 2));
        assert_eq!(of(&[], &[], &[3, 7], behind), one(3, 7), "there is nothing else");
        assert_eq!(of(&[], &[], &[5], behind), one(5, 5));
        // Beside what is asked for.
        assert_eq!(of(&[2, 3], &[], &[0, 1, 2, 3], adjacent), (vec![2, 3], vec![0]));
        assert_eq!(of(&[], &[0], &[0, 1, 2, 3], adjacent), one(2, 0));
        assert_eq!(of(&[1, 2, 3], &[], &[0, 1, 2, 3], adjacent), (vec![1, 2, 3], vec![0]));
        assert_eq!(of(&[0], &[1], &eight, adjacent), one(0, 1), "as asked for");
        // Where the system says nothing of it.
        assert_eq!(of(&[], &[], &[0, 1], |_| Vec::new()), one(0, 1));
    }

    #[test]
    fn shared_physical_cores_are_told() {
        let of = |server, client| {
            let cores = Cores { server: vec![server], client: vec![client], allowed: 4 };
            cores.shared(adjacent)
        };
        assert_eq!(of(2, 3), Some(vec![2, 3]));
        assert_eq!(of(0, 2), None);
    }

    #[test]
    fn lists_of_the_system_are_read() {
        assert_eq!(list("0,64\n"), [0, 64]);
        assert_eq!(list("2-3\n"), [2, 3]);
        assert_eq!(list(""), [0; 0]);
    }
}
