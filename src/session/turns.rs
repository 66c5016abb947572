//! Whose turn it is to send: the highest lane's, unless a lower one has been passed over for too
//! long. So none starves.

use crate::wire::Priority;

/// So many blocks of higher lanes go before one of a lane that waits. A lane that is always full
/// gets at least one block in `PASSED_OVER_MAX + 1` for each lower one, which is about 3 %.
pub(super) const PASSED_OVER_MAX: u8 = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Blocks of higher lanes that each lane has waited for, since its last turn.
    passed_over: [u8; Priority::COUNT],
}

impl Turns {
    /// Books whose turn it is: the lanes below that have something to send are passed over.
    #[inline]
    pub(super) fn taken_by(&mut self, lane: Priority, is_waiting: impl Fn(Priority) -> bool) {
        for (below, passed_over) in Priority::ALL.into_iter().zip(&mut self.passed_over) {
            if below >= lane {
                break;
            }
            *passed_over = if is_waiting(below) { passed_over.saturating_add(1) } else { 0 };
        }
        self.passed_over[lane.index()] = 0;
    }

    /// The lowest lane that has waited for its turn long enough.
    #[inline]
    pub(super) fn overdue(&self) -> Option<Priority> {
        let is_overdue = |lane: &Priority| self.passed_over[lane.index()] >= PASSED_OVER_MAX;
        Priority::ALL.into_iter().find(is_overdue)
    }

    /// The lanes in the order in which they may send: one that waits for too long, then from the
    /// highest down.
    #[inline]
    pub(super) fn order(&self) -> impl Iterator<Item = Priority> + use<> {
        self.overdue().into_iter().chain(Priority::ALL.into_iter().rev())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whose turns they are, so many, while the same lanes always have something to send.
    fn turns_of(turns: &mut Turns, waiting: &[Priority], count: usize) -> Vec<Priority> {
        let is_waiting = |lane: Priority| waiting.contains(&lane);
        let take = |_| {
            let lane = turns.order().find(|&lane| is_waiting(lane)).expect("something waits");
            turns.taken_by(lane, is_waiting);
            lane
        };
        (0..count).map(take).collect()
    }

    #[test]
    fn each_lane_that_waits_has_its_share() {
        let turns = turns_of(&mut Turns::default(), &Priority::ALL, 3_500);
        let of = |lane: Priority| turns.iter().filter(|&&turn| turn == lane).count();
        for lane in [Priority::Low, Priority::Normal, Priority::High] {
            assert!((90..=110).contains(&of(lane)), "{lane:?}: {}", of(lane));
        }
        let most = usize::from(PASSED_OVER_MAX);
        let waits = turns.split(|&turn| turn == Priority::Low).map(<[_]>::len);
        assert_eq!(waits.max(), Some(most), "none waits for more");
    }

    #[test]
    fn highest_lane_goes_first_until_a_lower_one_is_overdue() {
        let waiting = [Priority::Normal, Priority::Critical];
        let most = usize::from(PASSED_OVER_MAX);
        let turns = turns_of(&mut Turns::default(), &waiting, most + 2);
        assert_eq!(turns[..most], vec![Priority::Critical; most]);
        assert_eq!(turns[most..], [Priority::Normal, Priority::Critical]);
    }

    /// Who has nothing to send is not passed over, and begins to wait when it has.
    #[test]
    fn lane_without_anything_to_send_does_not_wait() {
        let mut turns = Turns::default();
        turns_of(&mut turns, &[Priority::Low, Priority::High], usize::from(PASSED_OVER_MAX) - 1);
        turns_of(&mut turns, &[Priority::High], 1);
        turns_of(&mut turns, &[Priority::Low, Priority::High], usize::from(PASSED_OVER_MAX) - 1);
        assert_eq!(turns.overdue(), None);
        turns_of(&mut turns, &[Priority::Low, Priority::High], 1);
        assert_eq!(turns.overdue(), Some(Priority::Low));
    }
}
