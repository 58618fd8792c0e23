//! Whose turn it is: the order in which sides are measured within a round.
//!
//! Forwards in even rounds, backwards in odd ones: a side that always went first would always find
//! the disk, the clock and the caches as the other side left them.

/// The places of `sides` in the order of round `round`.
pub(crate) fn turns(sides: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..sides).map(move |turn| if round.is_multiple_of(2) { turn } else { sides - 1 - turn })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_has_its_turn_and_nobody_is_always_first() {
        let order = |round| turns(3, round).collect::<Vec<_>>();
        assert_eq!((order(0), order(1), order(2)), (vec![0, 1, 2], vec![2, 1, 0], vec![0, 1, 2]));
    }
}
