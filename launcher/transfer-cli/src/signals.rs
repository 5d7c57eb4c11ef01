//! Signals that cancel a transfer.

use std::io;
use std::sync::Arc;

use layer_store::Cancellation;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{SigId, flag};

/// Makes Ctrl-C and SIGTERM cancel a transfer, which then cleans up; a second signal ends the program. Returns what was
/// registered, for callers that do something else after the transfer.
///
/// # Errors
/// The signals cannot be waited for.
pub fn cancel_on_signal(cancellation: &Cancellation) -> io::Result<Vec<SigId>> {
    let mut registered = Vec::new();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let flag = cancellation.flag();
        registered.push(flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&flag))?);
        registered.push(flag::register(signal, flag)?);
    }
    Ok(registered)
}
