//! An entry point for fuzzing: every document of a policy.

use super::document::Document;
use super::key::Key;
use super::registries::Registries;
use super::{Identity, Place, sigstore};

/// Reads bytes as a policy, a file of `registries.d`, a key and a signed document.
pub(crate) fn documents(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let name = text.parse().ok().or_else(|| "a.b.test:5000/x/y:1".parse().ok());
    let places = [name.clone().map(|name| Place::Registry(Box::new(name))), Some(Place::Tarball)];
    let places: Vec<Place> = places.into_iter().flatten().collect();
    if let Ok(document) = Document::parse(bytes) {
        for place in &places {
            assert!(!document.requirements(place).is_empty(), "a policy that requires nothing accepts everything");
        }
    }
    let mut registries = Registries::default();
    if registries.add(bytes).is_ok() {
        let _ = places.iter().filter(|place| registries.keep_attachments(place)).count();
    }
    let _ = (Key::parse(bytes).is_ok(), sigstore::parse(bytes).is_ok());
    for identity in [Identity::Exact, Identity::RepoDigestOrExact, Identity::ExactReference(text.clone().into_owned())]
    {
        let _ = name.as_ref().map(|name| identity.accepts(name, &text));
    }
}
