//! What caused an error.

use std::error::Error;
use std::io;

/// Returns the error and everything that caused it.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| below(*error))
}

/// What caused an error. An `io::Error` that carries another one has that as its cause, which its `source` skips.
pub(super) fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_that_an_io_error_carries_is_found() {
        let tls = rustls::Error::NoCertificatesPresented;
        let wrapped = io::Error::other(io::Error::other(tls));
        assert!(causes(&wrapped).any(<dyn Error>::is::<rustls::Error>));
    }
}
