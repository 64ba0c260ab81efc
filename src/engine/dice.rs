//! Chance from the system, for the law.

use protem_clock::random;
use protem_core::dice::Dice;

/// The system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDice;

impl Dice for SystemDice {
    fn bytes(&mut self) -> [u8; 16] {
        random::bytes()
    }
}
