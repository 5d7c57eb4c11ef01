//! Stores content that several layers have only once. This page says what is shared, how a layer's bytes are found
//! again, and why that is correct.
//!
//! A layer whose content other layers have is stored *thin*: a file `thin`, which is its tar with holes, and a map
//! `shared` (see [`map`]), which says for each hole in which other layer's tar, and at which offset, the bytes are. One
//! reader, [`Blob`], returns the bytes of the tar wherever they are. Views, verification, export and the rebuilding of
//! an index all use it. A layer's index does not depend on sharing, only on the tar.
//!
//! The decisions, with their reasons:
//!
//! - **A whole tar is called `blob`, one with holes `thin`.** A program that does not know about sharing finds no file,
//!   instead of reading zeros. If both exist, after a repair that was killed, `blob` counts.
//! - **Bytes are compared before they are removed.** The hash of a file's content only finds candidates. A hole is made
//!   only for bytes that were read from both tars and are equal, so neither a hash collision nor a wrong table of
//!   contents can corrupt a file.
//! - **Donors have the bytes themselves**, in their own file: there are no chains. Offsets are those of the donor's
//!   tar, so a donor may be fetched again whole, or lose what is not borrowed, without affecting its borrowers.
//! - **The map is authoritative.** It is synced before the first hole is made, and the feature is recorded in
//!   `store.json` before the first thin layer gets its place. The order is: compare, write the map, sync it, rename the
//!   file to `thin`, make the holes, sync the file, publish. A map may list bytes that are also still in the file: it
//!   is correct anyway.
//! - **A hole consists of whole blocks of 4 KiB**, because file systems free nothing smaller: those that are completely
//!   within the stored content of one file. A file needs at least one such block to be considered, a donor must save
//!   [`choose::DONOR_MIN`] bytes to be worth the dependency, and a layer has at most [`map::DONORS_MAX`] donors besides
//!   itself, so that a server needs only three descriptors for each layer. Content that a layer repeats is shared too:
//!   the layer is then its own donor.
//! - **Sharing never makes an import fail.** If the file system cannot make holes, or the map cannot be written, the
//!   layer stays whole.

pub(crate) mod blob;
pub(crate) mod choose;
pub(crate) mod contents;
pub(crate) mod map;
mod new_layer;
pub(crate) mod thin;

pub(crate) use blob::{Blob, BlobReader};
pub(crate) use contents::Content;
pub(crate) use new_layer::{Candidate, Lender, NewLayer};
