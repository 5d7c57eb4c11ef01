//! Layers of a store, from tar to tree to garbage.

mod adopted;
mod extensions;
mod fixture;
mod lifecycle;

mod sharing;
mod view;
