//! When a machine counts as ready, so that the command that started it in the background returns.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ready {
    /// The guest's init has mounted the root. The command may still fail to start.
    Root,
    /// The command has been started.
    #[default]
    Exec,
    /// Something in the guest listens on this TCP port.
    Port(u16),
}

impl FromStr for Ready {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("port:").map(str::parse)) {
            ("root", _) => Ok(Self::Root),
            ("exec", _) => Ok(Self::Exec),
            (_, Some(Ok(port))) if port > 0 => Ok(Self::Port(port)),
            _ => Err("expected root, exec or port:N, N from 1 to 65535".to_owned()),
        }
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("its root was up"),
            Self::Exec => f.write_str("its command ran"),
            Self::Port(port) => write!(f, "anything listened on port {port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_nothing_else() {
        for (text, expected) in [("root", Ready::Root), ("exec", Ready::Exec), ("port:8080", Ready::Port(8080))] {
            assert_eq!(text.parse(), Ok(expected));
        }
        for wrong in ["", "port", "port:", "port:0", "port:65536", "Exec"] {
            assert!(wrong.parse::<Ready>().is_err(), "{wrong}");
        }
    }
}
