//! Layers of a store: from a tar to a tree, until they are collected.

mod adopted;
mod block_device;
mod extensions;
mod fixture;
mod lifecycle;
mod sharing;
mod sharing_random;
mod streams;
mod view;
