//! The view behaves like a file system: listings, attributes, tools and errors through a real mount are those of the
//! tree that umoci unpacks.

mod attributes;
mod calls;
mod errors;
mod fixture;
mod getdents;
mod listings;
mod reading;
mod tools;
