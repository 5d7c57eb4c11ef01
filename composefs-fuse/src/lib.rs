//! composefs-fuse
