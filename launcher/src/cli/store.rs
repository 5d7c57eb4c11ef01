//! Helpers of the commands that use the store.

use std::path::PathBuf;

use layer_store::{
    BaseId, Cancellation, DiffId, Digest, Image, Reference, Registries, RegistriesFiles, Store, StoreError,
};
use signal_hook::SigId;
use transfer_cli::{LimitArgs, SharingArgs};

use super::Global;
use crate::failure::{About, Failure, USAGE};
use crate::meter::Told;
use crate::open_store::open_store;

/// Opens the store that the command line names, with its additional stores.
pub(super) fn open(global: &Global) -> Result<Store, Failure> {
    let (root, others) = roots(global)?;
    open_store(&root, &others)
}

/// Opens the store for new layers, with what they may cost and how they are stored.
pub(super) fn open_for_layers(global: &Global, limits: &LimitArgs, sharing: &SharingArgs) -> Result<Store, Failure> {
    Ok(open(global)?.with_limits(limits.limits()).with_file_sharing(sharing.shares_files()))
}

/// Opens the store for reading: a mistyped directory does not become a store. With additional stores it may be missing.
pub(super) fn look_into(global: &Global) -> Result<Store, Failure> {
    find(global)?.map_err(|none| Failure::of("store", &none))
}

/// Like [`look_into`], for callers that can do without a store.
pub(super) fn find(global: &Global) -> Result<Result<Store, StoreError>, Failure> {
    let (root, others) = roots(global)?;
    if !others.is_empty() {
        return open_store(&root, &others).map(Ok);
    }
    match Store::open_existing(&root) {
        Err(none @ StoreError::NoStoreYet(_)) => Ok(Err(none)),
        opened => opened.about("store").map(Ok),
    }
}

fn roots(global: &Global) -> Result<(PathBuf, Vec<PathBuf>), Failure> {
    let root = global.store.clone().unwrap_or_else(Store::default_root);
    let root = std::path::absolute(&root).about(root.display())?;
    let mut others = Vec::new();
    for other in global.additional_stores.iter().cloned().chain(Store::additional_roots_from_environment()) {
        others.push(std::path::absolute(&other).about(other.display())?);
    }
    Ok((root, others))
}

/// Parses an image's name as people write it; a typing error is wrong usage.
pub(super) fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse().map_err(|error| Failure::new("image name", error).with_status(USAGE))
}

/// Returns what a name without a registry may mean, as registries.conf says. Nothing for an id.
pub(super) fn meanings(text: &str) -> Result<Vec<Reference>, Failure> {
    if text.parse::<Reference>().is_err() {
        return Ok(Vec::new());
    }
    let registries = Registries::read(&RegistriesFiles::default()).map_err(|error| Failure::of(text, &error))?;
    registries.candidates(text).map_err(|error| Failure::of(text, &error).with_status(USAGE))
}

/// Returns the images that a name for a pull may mean, in the order in which they are tried.
pub(super) fn pullable(text: &str) -> Result<Vec<Reference>, Failure> {
    let text = text.strip_prefix("docker://").unwrap_or(text);
    let itself = reference(text)?;
    let meanings = meanings(text)?;
    Ok(if meanings.is_empty() { vec![itself] } else { meanings })
}

/// Finds the image with this name, or whose id starts with it.
pub(super) fn image(store: &Store, name: &str) -> Result<Image, Failure> {
    let missing = || {
        let canonical = reference(name).map(|reference| reference.to_string());
        canonical.map(|canonical| Failure::of(name, &StoreError::NoSuchImage(canonical)))
    };
    match find_image(store, name)? {
        Some(image) => Ok(image),
        None => Err(missing()?),
    }
}

/// Like [`image`], for callers that can do without an image.
pub(super) fn find_image(store: &Store, name: &str) -> Result<Option<Image>, Failure> {
    let get = |reference: &str| match store.images().get(reference) {
        Err(StoreError::NoSuchImage(_)) => Ok(None),
        found => found.map(Some).map_err(|error| Failure::of(name, &error)),
    };
    // Something that is not a name may still be an id.
    let named = reference(name);
    let meanings = meanings(name);
    let itself = named.as_ref().ok().cloned();
    for reference in meanings.iter().flatten().cloned().chain(itself) {
        if let Some(image) = get(&reference.to_string())? {
            return Ok(Some(image));
        }
    }
    match by_digest(store, name)?.first() {
        Some(found) => get(found),
        None => meanings.and(named).map(|_| None),
    }
}

/// Returns the names of the image with an id that starts with this prefix of at least 4 digits, with or without `sha256:`.
/// The id is the digest of the manifest, as `lamina images` prints it; those of the config and of the index are found too.
pub(super) fn by_digest(store: &Store, name: &str) -> Result<Vec<String>, Failure> {
    let is_digit = |digit: char| digit.is_ascii_digit() || ('a'..='f').contains(&digit);
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    if !(4..=64).contains(&hex.len()) || !hex.chars().all(is_digit) {
        return Ok(Vec::new());
    }
    let starts = |digest: Digest| digest.to_string().strip_prefix("sha256:").is_some_and(|own| own.starts_with(hex));
    let mut images = store.images().list().about("store")?;
    images.retain(|image| {
        starts(image.manifest_digest)
            || image.index.is_some_and(starts)
            || store.images().get(&image.reference).is_ok_and(|image| starts(image.config_digest))
    });
    let first = images.first().map(|image| image.manifest_digest);
    if images.iter().any(|image| Some(image.manifest_digest) != first) {
        return Err(
            Failure::new(name, "several images have a digest that starts with this").with_hint("give more digits")
        );
    }
    Ok(images.into_iter().map(|image| image.reference).collect())
}

/// Warns about additional stores in which a mount or a machine cannot hold the layers that it uses.
pub(super) fn tell_unleased(opened: &Store, layers: &[DiffId], on_top: &[DiffId]) {
    for store in opened.layers().unleased(&[layers, on_top].concat()) {
        let store = store.display();
        tell!(
            "lamina: layers in {store} cannot be leased by this user: a `lamina gc` by its owner may remove them while they are in \
             use; the owner can allow leases with `chmod 1777 {store}/leases`"
        );
    }
}

/// Makes Ctrl-C and SIGTERM cancel a transfer, which then cleans up; a second signal ends the program. Returns what was
/// registered, for callers that do something else after the transfer.
pub(super) fn cancel_on_signal(cancellation: &Cancellation) -> Result<Vec<SigId>, Failure> {
    transfer_cli::cancel_on_signal(cancellation).about("signals")
}

/// Prepares the base of an image with these layers on top.
pub(super) fn prepare(store: &Store, image: &Image, layers: &[DiffId]) -> Result<BaseId, Failure> {
    store.bases().prepare(image, layers, &Told).map_err(|error| Failure::of(&image.reference, &error))
}
