//! Random numbers that a seed reproduces.

use std::hash::{BuildHasher as _, Hasher as _};

/// A small generator (xorshift64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator whose numbers this seed determines.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Seeds from the variable `LAMINA_SEED`, otherwise differently each time, and prints the seed.
    ///
    /// # Panics
    /// When the variable is not a number.
    #[must_use]
    pub fn from_environment() -> Self {
        // The operating system seeds every RandomState.
        let fresh = || std::hash::RandomState::new().build_hasher().finish();
        let seed = std::env::var("LAMINA_SEED").map_or_else(|_| fresh(), |seed| seed.parse().expect("a number"));
        println!("LAMINA_SEED={seed} repeats these steps");
        Self::new(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    ///
    /// # Panics
    /// When `end` is zero.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.bits() % end as u64).expect("less than a usize")
    }
}

/// Bytes that cannot be compressed: the same for the same seed, and with nothing in common for different seeds.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    std::iter::repeat_with(|| random.bits().to_le_bytes()).flatten().take(length).collect()
}
