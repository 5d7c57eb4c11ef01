//! Layers of a store, from tar to tree to garbage.

mod fixture;
mod life;
mod sharing;
mod view;
