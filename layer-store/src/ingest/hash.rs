//! SHA-256 of a stream.

use sha2::{Digest as _, Sha256};

use crate::Digest;

/// Computes the digest of bytes that arrive in pieces.
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub(super) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}
