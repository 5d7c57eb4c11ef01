//! Limits for layers.

/// Limits for new layers, as a protection against archives that are made to fill the disk or the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one layer's tar. Default 256 GiB.
    pub layer_bytes: u64,
    /// How many times larger than its compressed form a layer may be. Default 200; gzip cannot exceed 1032.
    pub ratio: u64,
    /// Bytes of tar up to which the ratio is not checked. Default 1 GiB.
    pub ratio_free_bytes: u64,
    /// Inodes of one layer. Default 2^24; each needs about 150 bytes of memory while the layer is added.
    pub inodes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layer_bytes: 256 << 30, ratio: 200, ratio_free_bytes: 1 << 30, inodes: 1 << 24 }
    }
}

/// Which limit a layer exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    /// [`Limits::layer_bytes`].
    #[error("its tar is larger than {0} bytes")]
    LayerBytes(u64),
    /// [`Limits::ratio`].
    #[error("its tar is more than {0} times as large as its compressed form")]
    Ratio(u64),
    /// [`Limits::inodes`].
    #[error("the layer has more than {0} inodes")]
    Inodes(u32),
}

impl Limits {
    /// Returns which limit a layer exceeds that has `tar` bytes so far, decompressed from `received` bytes.
    pub(crate) fn exceeded(&self, tar: u64, received: u64) -> Option<LimitExceeded> {
        if tar > self.layer_bytes {
            return Some(LimitExceeded::LayerBytes(self.layer_bytes));
        }
        let is_blown_up = tar > self.ratio_free_bytes && tar / self.ratio > received;
        is_blown_up.then_some(LimitExceeded::Ratio(self.ratio))
    }
}
