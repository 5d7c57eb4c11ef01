//! What damage leads to: indexes and bases are rebuilt from the blobs, damaged blobs are named, refused and fetched
//! again, and what is exported is what was imported.

mod blobs;
mod caches;
mod export_round_trip;
mod fixture;
mod repair;
