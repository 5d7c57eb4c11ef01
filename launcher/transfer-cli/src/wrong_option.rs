//! Values of options that are wrong.

use std::fmt;

/// An option with a value that cannot be used: wrong usage of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongOption {
    /// The option, or the file that it names.
    pub thing: String,
    /// What is wrong with it.
    pub cause: String,
}

impl WrongOption {
    pub(crate) fn new(thing: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self { thing: thing.to_string(), cause: cause.to_string() }
    }
}

impl fmt::Display for WrongOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.thing, self.cause)
    }
}

impl std::error::Error for WrongOption {}
