//! Content that several layers have is kept once: what is shared, how a layer's bytes are found again, and why it is right.
//!
//! A layer whose content other layers have is kept *thin*: its tar with holes, in a file `thin`, and a map `shared` (see
//! [`map`]) that says for each hole in which other layer's tar, and where, the bytes are. Everything else is built on one
//! reader, [`Blob`], that returns the bytes of the tar wherever they are: views, verification, export, the rebuilding of an index.
//! A layer's index knows nothing of it and stays a function of the tar.
//!
//! The decisions, each for a reason:
//!
//! - **A whole tar is called `blob`, one with holes `thin`.** A program that does not know about sharing finds no file, never zeros. Where
//!   both are there, after a repair that was killed, `blob` counts.
//! - **Bytes are compared before they go.** The hash of a file's content only finds twins. What is left out is what
//!   was read from both tars and found equal, so neither a collision nor a lying table of contents makes a wrong file.
//! - **Donors hold the bytes themselves**, in their own file: there are no chains. Offsets are those of the donor's tar, so
//!   a donor may be fetched again whole, or lose what is not borrowed, and its borrowers are not affected.
//! - **The map is truth.** It is synced before the first hole is made, and the feature is noted in `store.json` before
//!   the first thin layer gets its place. The order is: compare, write the map, sync it, call the file `thin`, make the
//!   holes, sync the file, publish. A map may name bytes that are still in the file too: it is right all the same.
//! - **A hole is made of whole blocks of 4 KiB**, as file systems free nothing less: those that lie completely within the
//!   stored content of one file. A file needs at least one such block to matter, a donor must spare [`choose::DONOR_MIN`] bytes
//!   to be worth the dependence, and a layer has at most [`map::DONORS_MAX`] donors besides itself, so that a server needs
//!   three descriptors for each layer and no more. What a layer repeats in itself is shared too: it is then its own donor.
//! - **Sharing never makes an import fail.** Where the file system cannot make holes, or the map cannot be written, the layer
//!   stays whole.

pub(crate) mod blob;
pub(crate) mod choose;
pub(crate) mod contents;
pub(crate) mod map;
mod new_layer;
pub(crate) mod thin;

pub(crate) use blob::{Blob, BlobReader};
pub(crate) use contents::Content;
pub(crate) use new_layer::{Candidate, Lender, NewLayer};
