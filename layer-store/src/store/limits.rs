//! What a layer may cost before it is refused.

/// Limits for layers that come in, against archives made to fill a disk or a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one layer's tar. Default 256 GiB.
    pub layer_bytes: u64,
    /// How many times larger than what came a layer may be. Default 200; gzip cannot exceed 1032.
    pub ratio: u64,
    /// Bytes of tar up to which the ratio does not matter. Default 1 GiB.
    pub ratio_free_bytes: u64,
    /// Inodes of one layer. Default 2^24; each costs about 150 bytes of memory while the layer comes in.
    pub inodes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layer_bytes: 256 << 30, ratio: 200, ratio_free_bytes: 1 << 30, inodes: 1 << 24 }
    }
}

impl Limits {
    /// Why a layer of `tar` bytes so far, from `received` bytes, is too much.
    pub(crate) fn exceeded(&self, tar: u64, received: u64) -> Option<String> {
        if tar > self.layer_bytes {
            return Some(format!(
                "its tar is larger than {} bytes; raise --max-layer-size if you trust it",
                self.layer_bytes
            ));
        }
        if tar > self.ratio_free_bytes && tar / self.ratio > received {
            return Some(format!(
                "its tar is more than {} times as large as its compressed form; raise --max-ratio if you trust it",
                self.ratio
            ));
        }
        None
    }
}
