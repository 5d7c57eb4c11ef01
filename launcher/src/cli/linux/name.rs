//! Names of machines, as people write them.

use crate::machine;

/// Parses the name of a machine.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    if machine::is_valid_name(text) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 40 letters, digits, \"-\", \"_\" or \".\", the first a letter or digit".to_owned())
}
