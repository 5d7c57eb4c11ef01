//! What the user can do about an error of the store: the options of `lamina` that help.

#[cfg(target_os = "linux")]
mod unpacked;
#[cfg(not(target_os = "linux"))]
#[path = "never_unpacked.rs"]
mod unpacked;

use std::any::Any;
use std::error::Error;

use layer_store::{
    BlockImageError, ExportError, ImageError, ImportError, IngestError, LimitExceeded, LoginError, PolicyError,
    PullError, PushError, RepairError, StoreError,
};

/// Returns what helps against an error, found in the error or in its sources.
#[must_use]
pub fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(hint) = own_hint(error) {
            return Some(hint);
        }
        cause = error.source();
    }
    None
}

/// Does the same for a value of any type, if it is an error of the store.
#[must_use]
pub fn of(error: &dyn Any) -> Option<String> {
    let store = error.downcast_ref::<StoreError>().map(|error| error as &(dyn Error + 'static));
    let ingest = || error.downcast_ref::<IngestError>().map(|error| error as &(dyn Error + 'static));
    let block = || error.downcast_ref::<BlockImageError>().map(|error| error as &(dyn Error + 'static));
    let export = || error.downcast_ref::<ExportError>().map(|error| error as &(dyn Error + 'static));
    hint(store.or_else(ingest).or_else(block).or_else(|| unpacked::of(error)).or_else(export)?)
}

/// Looks into the wrapped error of a transparent error, because that is not among its sources.
fn own_hint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref() {
        return store_hint(error);
    }
    match error.downcast_ref() {
        Some(ImportError::Image { cause, .. }) => return hint(cause),
        Some(ImportError::SeveralImages { .. }) => return Some("choose one with --image".to_owned()),
        Some(ImportError::WrongName { .. }) => return Some("give a name without a digest".to_owned()),
        Some(ImportError::NotAnArchive { .. }) => {
            return Some("the tar of a root file system is imported with --rootfs".to_owned());
        }
        Some(ImportError::Layer { cause, .. } | ImportError::Store(cause)) => return hint(&**cause),
        Some(ImportError::Policy(error)) => return Some(policy_hint(error)),
        _ => {}
    }
    match error.downcast_ref() {
        Some(PullError::Layer { cause, .. } | PullError::Store(cause)) => return hint(&**cause),
        Some(PullError::Policy(error)) => return Some(policy_hint(error)),
        Some(PullError::Untrusted { .. }) => {
            let words =
                "name its CA with --ca-file FILE, certs.d or SSL_CERT_FILE, or use --plain-http where it has no TLS";
            return Some(words.to_owned());
        }
        Some(PullError::NoTls { .. }) => return Some("use --plain-http if that is meant".to_owned()),
        Some(PullError::Denied { registry, .. }) => {
            return Some(format!("if the name is right, log in with `lamina login {registry}`"));
        }
        Some(PullError::LoginRefused { registry, .. }) => {
            return Some(format!("log in again with `lamina login {registry}`"));
        }
        _ => {}
    }
    match error.downcast_ref() {
        Some(IngestError::Store(error)) => return store_hint(error),
        Some(IngestError::Limit(limit)) => return Some(limit_hint(*limit)),
        _ => {}
    }
    if let Some(BlockImageError::Store(error)) = error.downcast_ref() {
        return store_hint(error);
    }
    if let Some(error) = unpacked::store_error(error) {
        return store_hint(error);
    }
    if let Some(hint) = unpacked::hint(error) {
        return Some(hint.to_owned());
    }
    match error.downcast_ref() {
        Some(ExportError::Store(error)) => return store_hint(error),
        Some(ExportError::Original(error)) => return push_hint(error),
        _ => {}
    }
    if let Some(error) = error.downcast_ref::<PushError>() {
        return push_hint(error);
    }
    if let Some(LoginError::Registry(error)) = error.downcast_ref() {
        return hint(error);
    }
    match error.downcast_ref() {
        Some(RepairError::NoSource(_)) => {
            return Some("name a layout or an archive that has it with `lamina verify --repair --from`".to_owned());
        }
        Some(RepairError::Import { .. } | RepairError::NotThere { .. }) => {
            return Some("name another layout or archive that has it with `lamina verify --repair --from`".to_owned());
        }
        Some(RepairError::Fetch(error)) => return hint(&**error),
        Some(RepairError::Store(error)) => return store_hint(error),
        _ => {}
    }
    match error.downcast_ref()? {
        ImageError::NoSuchPlatform { .. } => Some("choose with --platform".to_owned()),
        _ => None,
    }
}

fn push_hint(error: &PushError) -> Option<String> {
    match error {
        PushError::Registry(error) => hint(error),
        PushError::Store(error) => store_hint(error),
        PushError::Lost { .. } | PushError::OtherDigest { .. } => {
            Some("leave out the digest and --preserve-digests to make a new manifest".to_owned())
        }
        PushError::Incomplete(_) => {
            Some("`lamina pull --all-platforms` fetches everything that the index lists".to_owned())
        }
        _ => None,
    }
}

fn store_hint(error: &StoreError) -> Option<String> {
    Some(match error {
        StoreError::Io { path, .. } if error.is_read_only() => {
            let store = path.ancestors().find(|directory| directory.join("store.json").exists());
            let too = store.map(|store| format!(", and read this one too with --additional-store {}", store.display()));
            format!("choose a store that you may write with --store or LAMINA_STORE{}", too.unwrap_or_default())
        }
        StoreError::OnlyRead { store, .. } => format!("remove it with `lamina --store {} rmi`", store.display()),
        StoreError::NoStoreYet(_) => {
            "`lamina pull` and `lamina import` create a store; --store and LAMINA_STORE name another".to_owned()
        }
        StoreError::OfOthers { path, .. } => format!(
            "read it with --additional-store {}, which verifies what is used of it, and name a store of your own with --store",
            path.display()
        ),
        StoreError::NoStore(_) => {
            "--additional-store and LAMINA_ADDITIONAL_STORES name directories of stores".to_owned()
        }
        StoreError::Unreadable { path, .. }
            if cfg!(target_os = "linux") && path.parent().is_some_and(|directory| directory.ends_with("pins")) =>
        {
            "`lamina ps --all` lists the machines".to_owned()
        }
        StoreError::DamagedLayer { .. } => "`lamina verify --repair` fetches it again".to_owned(),
        _ => return None,
    })
}

fn policy_hint(error: &PolicyError) -> String {
    match error {
        PolicyError::Unreadable { .. } | PolicyError::Malformed { .. } => {
            "correct it as containers-policy.json(5) says, or name another with the option --policy of `pull` and `import`"
                .to_owned()
        }
        _ => "change the policy, or name another with the option --policy of `pull` and `import`".to_owned(),
    }
}

fn limit_hint(limit: LimitExceeded) -> String {
    let option = match limit {
        LimitExceeded::LayerBytes(_) => "--max-layer-size",
        LimitExceeded::Ratio(_) => "--max-ratio",
        LimitExceeded::Inodes(_) => "--max-inodes",
    };
    format!("raise {option} if you trust it")
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
        let error = ImportError::Image { source_name: "x.tar".to_owned(), cause: there };
        assert_eq!(hint(&error).as_deref(), Some("choose with --platform"));
        assert_eq!(hint(&ImageError::NotAnImage("it is a chart".to_owned())), None);
        let there = ImageError::NoSuchPlatform { wanted: "linux/arm".parse().unwrap(), offered: Vec::new() };
        let pull = PullError::Image { image: "x".to_owned(), cause: there };
        assert_eq!(hint(&pull).as_deref(), Some("choose with --platform"), "the cause of an error counts");
    }

    #[test]
    fn errors_of_the_store_are_found_below_those_that_wrap_them() {
        let damaged = || StoreError::NoStoreYet("/x".into());
        let wrapped = ImportError::Layer {
            source_name: "x".into(),
            layer: "y".into(),
            cause: Box::new(IngestError::from(damaged())),
        };
        assert!(hint(&wrapped).is_some_and(|hint| hint.contains("--store")));
        assert!(of(&damaged()).is_some_and(|hint| hint.contains("--store")));
        let limit = IngestError::from(LimitExceeded::Ratio(200));
        assert_eq!(of(&limit).as_deref(), Some("raise --max-ratio if you trust it"));
        assert_eq!(of(&"text"), None);
    }
}
