//! How the programs write lines of their log.

use std::fmt;

use layer_store::printable;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes an event on one line: the level, in colour if the writer supports it, then the message and its fields, which
/// are escaped because they may quote input.
#[derive(Clone, Copy, Debug)]
pub struct LogFormat {
    /// Whether lines begin with the time.
    pub time: bool,
}

impl<S, N> FormatEvent<S, N> for LogFormat
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.time {
            SystemTime.format_time(&mut to)?;
            to.write_char(' ')?;
        }
        let level = *event.metadata().level();
        match colour(level).filter(|_| to.has_ansi_escapes()) {
            Some(colour) => write!(to, "\x1b[{colour}m{level:>5}\x1b[0m ")?,
            None => write!(to, "{level:>5} ")?,
        }
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        writeln!(to, "{}", printable::line(&fields))
    }
}

/// The colours that `tracing-subscriber` gives to the levels.
const fn colour(level: Level) -> Option<u8> {
    Some(match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        _ => 35,
    })
}
