//! A document that names an image: a manifest or an index.

use crate::Digest;

/// A manifest or an index, with the type that it is stored under.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

impl Document {
    pub(crate) fn new(bytes: Vec<u8>, media_type: &str) -> Self {
        Self { digest: Digest::of(&bytes), media_type: media_type.to_owned(), bytes }
    }
}
