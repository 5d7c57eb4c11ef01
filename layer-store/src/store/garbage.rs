//! What a garbage collection removes.

/// What a collection deleted, or would delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Collected {
    /// All garbage, sorted by kind and name.
    pub garbage: Vec<Garbage>,
    /// Bytes that it used on disk.
    pub bytes: u64,
}

/// One thing that is not needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Garbage {
    /// What it is: `layer`, `base`, `manifest`, `index`, `part`, `partial`, `leftover`.
    pub kind: GarbageKind,
    /// Its digest, base id or file name.
    pub name: String,
    /// Bytes that it uses on disk.
    pub bytes: u64,
}

/// What a piece of garbage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GarbageKind {
    /// A layer: blob and index.
    Layer,
    /// A prepared base.
    Base,
    /// A manifest or a config.
    Manifest,
    /// The index of a layer of an additional store.
    Index,
    /// The part of a layer that is not needed, while other layers borrow content from it.
    Part,
    /// The first part of a layer whose transfer ended early.
    Partial,
    /// Files that a killed process left.
    Leftover,
}
