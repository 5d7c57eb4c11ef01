//! Layers of a store, from tar to tree to garbage.

mod adopted;
mod extensions;
mod fixture;
mod lifecycle;
#[path = "../support/random.rs"]
mod random;
mod sharing;
mod view;
