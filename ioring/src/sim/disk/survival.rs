//! Who answers what a seeded loss of power keeps.

use super::{Atom, ChangeId};
use crate::sim::dice::Dice;

/// What kind of crash it is. Independent sectors alone would hardly ever lose or keep a large
/// write as a whole, and those are the interesting cases as often as torn ones.
pub(super) enum Survival {
    Nothing,
    Everything,
    EachAtom,
    /// A write survives wholly, not at all, or as its first sectors: by the change drawn last.
    EachChange {
        current: Option<ChangeId>,
        sectors_kept: u64,
    },
}

impl Survival {
    pub(super) fn draw(dice: &mut Dice) -> Survival {
        match dice.below(6) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2 | 3 => Survival::EachAtom,
            _ => Survival::EachChange { current: None, sectors_kept: 0 },
        }
    }

    pub(super) fn keeps(&mut self, atom: Atom, dice: &mut Dice) -> bool {
        match (self, atom) {
            (Survival::Nothing, _) => false,
            (Survival::Everything, _) => true,
            (
                Survival::EachChange { current, sectors_kept },
                Atom::Sector { change, index, count },
            ) => {
                if *current != Some(change) {
                    *current = Some(change);
                    *sectors_kept = match dice.below(3) {
                        0 => 0,
                        1 => count,
                        _ => dice.below(count + 1),
                    };
                }
                index < *sectors_kept
            }
            (Survival::EachAtom | Survival::EachChange { .. }, _) => dice.coin(),
        }
    }
}
