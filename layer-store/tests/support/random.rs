//! A small generator (xorshift64), so that a seed chooses the same steps.

use std::hash::{BuildHasher as _, Hasher as _};

pub(crate) struct Random(u64);

impl Random {
    /// `LAMINA_SEED`, else another each time.
    pub(crate) fn from_environment() -> Self {
        // Every RandomState is seeded anew by the operating system's generator.
        let fresh = || std::hash::RandomState::new().build_hasher().finish();
        let seed = std::env::var("LAMINA_SEED").map_or_else(|_| fresh(), |seed| seed.parse().expect("a number"));
        println!("LAMINA_SEED={seed} takes these steps again");
        Self(seed | 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("less than a usize")
    }
}
