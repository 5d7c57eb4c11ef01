//! What `lamina doctor` finds out.

use std::fmt;

use serde::Serialize;

use super::{Global, store};
use crate::failure::Failure;
use crate::print;

/// What was tried, and the result.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// What was tried.
    subject: String,
    /// Whether it works.
    pub(super) works: bool,
    /// Whether the exit status depends on it.
    required: bool,
    /// What was found, or what is wrong.
    detail: String,
    /// What can be done about it.
    remedy: Option<String>,
}

impl Finding {
    /// Says what came of a try.
    pub(super) fn new(subject: &str, required: bool, outcome: Result<String, Failure>) -> Self {
        let subject = subject.to_owned();
        match outcome {
            Ok(detail) => Self { subject, works: true, required, detail, remedy: None },
            Err(failure) => {
                let remedy = failure.hint().map(str::to_owned);
                Self { subject, works: false, required, detail: failure.complaint(), remedy }
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match (self.works, self.required) {
            (true, _) => "ok",
            (false, true) => "FAILS",
            (false, false) => "no",
        };
        writeln!(f, "{mark:5}  {:16}  {}", self.subject, self.detail)?;
        match &self.remedy {
            Some(remedy) => writeln!(f, "{:25}-> {remedy}", ""),
            None => Ok(()),
        }
    }
}

/// Prints the findings. Returns the exit status, which is 1 if something that is required does not work.
pub(super) fn report(findings: &[Finding], global: &Global) -> Result<u8, Failure> {
    if global.json {
        print::json_pretty(&findings)?;
    } else {
        print::result_lines(&findings.iter().map(ToString::to_string).collect::<String>())?;
    }
    Ok(u8::from(findings.iter().any(|finding| finding.required && !finding.works)))
}

/// Whether the store can be opened and written, by writing.
pub(super) fn store(global: &Global) -> Result<String, Failure> {
    let store = store::open(global)?;
    let root = store.root();
    tempfile::tempfile_in(root).map_err(|error| {
        Failure::new(root.display(), error).with_hint("choose another store with --store or LAMINA_STORE")
    })?;
    Ok(format!("{} can be written", root.display()))
}
