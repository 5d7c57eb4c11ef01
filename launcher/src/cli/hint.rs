//! What the user can do about an error of the store: the options of `lamina` that help.

use std::error::Error;

use layer_store::{ImageError, ImportError, PullError};

use crate::failure::Failure;

/// A failure with what helps, where an option does.
pub(super) fn failure(thing: &str, error: &(dyn Error + 'static)) -> Failure {
    let failure = Failure::new(thing, error);
    match hint(error) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(hint) = own_hint(error) {
            return Some(hint);
        }
        cause = error.source();
    }
    None
}

fn own_hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    match error.downcast_ref() {
        Some(ImportError::Image { cause, .. }) => return hint(cause),
        Some(ImportError::SeveralImages { .. }) => return Some("choose one with --image"),
        Some(ImportError::WrongName { .. }) => return Some("give a name without a digest"),
        Some(ImportError::NotAnArchive { .. }) => {
            return Some("the tar of a root file system is imported with --rootfs");
        }
        _ => {}
    }
    if let Some(ImageError::NoSuchPlatform { .. }) = error.downcast_ref() {
        return Some("choose with --platform");
    }
    match error.downcast_ref()? {
        PullError::Untrusted { .. } => {
            Some("name its CA with --ca-file FILE or SSL_CERT_FILE, or use --plain-http where it has no TLS")
        }
        PullError::NoTls { .. } => Some("use --plain-http if that is meant"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_is_suggested_only_where_there_is_one_to_choose() {
        let there = ImageError::NoSuchPlatform {
            wanted: "linux/amd64".parse().unwrap(),
            offered: vec!["linux/arm64".parse().unwrap()],
        };
        let failure = failure("import", &ImportError::Image { source_name: "x.tar".to_owned(), cause: there });
        assert!(failure.to_string().ends_with("; choose with --platform"), "{failure}");
        assert_eq!(hint(&ImageError::NotAnImage("it is a chart".to_owned())), None);
        let there = ImageError::NoSuchPlatform { wanted: "linux/arm".parse().unwrap(), offered: Vec::new() };
        let pull = PullError::Image { image: "x".to_owned(), cause: there };
        assert_eq!(hint(&pull), Some("choose with --platform"), "the cause of an error counts");
    }
}
