//! Writes virtiofsd's warnings to standard error, which is the log of the share.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // A log that cannot be written is no reason to end.
            let _ = std::io::stderr().write_all(format!("{}\n", record.args()).as_bytes());
        }
    }

    fn flush(&self) {}
}

pub(crate) fn init() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}
