//! An additional image store of podman: a directory in the layout of containers/storage (its `store.go`, `images.go`,
//! `layers.go` and `drivers/overlay`), which podman reads and never writes.
//!
//! ```text
//! overlay-images/images.json       images: id, names, top layer, and their documents
//! overlay-images/<id>/<document>   manifest and config, byte for byte
//! overlay-layers/layers.json       layers
//! overlay/<layer>/diff             the layer's tree: here the view of a whole image is mounted
//! overlay/<layer>/link             another, short name for it
//! overlay/l/<link>                 a symbolic link from that name to the tree
//! ```
//!
//! Each image has one layer, whose id is that of the image's base. That podman's view of the image then has fewer layers than
//! the manifest does not matter for running it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use layer_store::{BaseId, Digest};
use serde_json::{Value, json};

use super::json_file;
use crate::failure::{About, Failure};

/// How many characters a short name has, which containers/storage chooses so that many fit into one mount option.
const LINK: usize = 26;

/// An image for podman.
#[derive(Debug)]
pub(crate) struct PodmanImage {
    /// Its canonical name.
    pub(crate) reference: String,
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) config_digest: Digest,
    pub(crate) base: BaseId,
    /// The length of its layers' tars.
    pub(crate) bytes: u64,
    /// When it was made, in the format of RFC 3339.
    pub(crate) created: String,
}

/// The directory.
#[derive(Debug)]
pub(crate) struct PodmanStore(PathBuf);

impl PodmanStore {
    /// Opens the store in a directory, which is made if it is missing.
    pub(crate) fn open(directory: &Path) -> Result<Self, Failure> {
        let store = Self(directory.to_owned());
        for name in ["overlay-images", "overlay-layers", "overlay/l"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).about(path.display())?;
        }
        // A root mounts images with their set-user-ID programs and devices, which no other user must reach.
        let trees = directory.join("overlay");
        fs::set_permissions(&trees, fs::Permissions::from_mode(0o700)).about(trees.display())?;
        // podman locks these, and cannot create them where it only reads.
        for name in ["overlay-images/images.lock", "overlay-layers/layers.lock"] {
            let path = directory.join(name);
            let file = fs::File::options().create(true).append(true).open(&path);
            file.about(path.display())?;
        }
        Ok(store)
    }

    /// Returns where the view of a base is to be mounted.
    pub(crate) fn tree(&self, base: &BaseId) -> PathBuf {
        self.0.join("overlay").join(base.hex()).join("diff")
    }

    /// Makes the place for a layer, before its view is mounted.
    pub(crate) fn add_layer(&self, base: &BaseId) -> Result<(), Failure> {
        let tree = self.tree(base);
        let layer = tree.with_file_name("");
        let name: String = base.hex().to_uppercase().chars().take(LINK).collect();
        fs::create_dir_all(&layer).about(layer.display())?;
        // With a dead mount on it, it exists but cannot be looked into.
        if let Err(error) = fs::create_dir(&tree)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(Failure::new(tree.display(), error));
        }
        fs::write(layer.join("link"), &name).about(layer.display())?;
        let link = self.0.join("overlay/l").join(&name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..").join(base.hex()).join("diff"), &link).about(link.display())?;
        }
        Ok(())
    }

    /// Adds an image whose layer is there. It takes the name of another that had it, which stays without one: podman's
    /// containers may need it. See [`PodmanStore::unnamed`].
    pub(crate) fn add_image(&self, image: &PodmanImage) -> Result<(), Failure> {
        let id = image.config_digest.hex();
        let documents = [
            ("manifest".to_owned(), &image.manifest),
            (format!("manifest-{}", Digest::of(&image.manifest)), &image.manifest),
            (image.config_digest.to_string(), &image.config),
        ];
        let directory = self.0.join("overlay-images").join(&id);
        fs::create_dir_all(&directory).about(directory.display())?;
        let mut described = [json!([]), json!({}), json!({})];
        for (name, bytes) in &documents {
            let path = directory.join(file_name(name));
            fs::write(&path, bytes).about(path.display())?;
            if let [Value::Array(names), sizes, digests] = &mut described {
                names.push(json!(name));
                sizes[name] = json!(bytes.len());
                digests[name] = json!(Digest::of(bytes).to_string());
            }
        }
        let [names, sizes, digests] = described;
        let entry = json!({
            "id": id, "digest": Digest::of(&image.manifest).to_string(), "names": [image.reference],
            "layer": image.base.hex(), "created": image.created,
            "big-data-names": names, "big-data-sizes": sizes, "big-data-digests": digests,
        });
        self.change("layers", |layers| {
            layers.retain(|layer| layer["id"] != image.base.hex());
            // A digest that no tar has: podman shows it, and copies no layer from here.
            layers.push(json!({
                "id": image.base.hex(), "created": image.created,
                "diff-digest": format!("sha256:{}", image.base.hex()), "diff-size": image.bytes,
            }));
        })?;
        self.change("images", |images| {
            images.iter_mut().for_each(|other| take_name(other, &image.reference));
            match images.iter_mut().find(|other| other["id"] == id) {
                Some(same) => {
                    let mut names = same["names"].as_array().cloned().unwrap_or_default();
                    names.push(json!(image.reference));
                    *same = entry;
                    same["names"] = names.into();
                }
                None => images.push(entry),
            }
        })?;
        self.remove_documents()
    }

    /// Removes the name of an image, and the image with its last name. Returns the trees that no image needs any more, which
    /// are to be unmounted before [`PodmanStore::remove_layer`].
    pub(crate) fn remove_image(&self, reference: &str) -> Result<Vec<BaseId>, Failure> {
        let (mut found, mut unnamed) = (false, Vec::new());
        self.change("images", |images| {
            for image in images.iter_mut().filter(|image| has_name(image, reference)) {
                found = true;
                take_name(image, reference);
                unnamed.extend(unnamed_id(image));
            }
        })?;
        if !found {
            return Err(Failure::new(reference, "podman was not given this image")
                .with_hint("`podman images` lists what podman has"));
        }
        self.remove_images(&unnamed)
    }

    /// Returns the ids of images whose names others have taken.
    pub(crate) fn unnamed(&self) -> Result<Vec<String>, Failure> {
        Ok(self.list("images")?.iter().filter_map(unnamed_id).collect())
    }

    /// Removes images by their ids. Returns the trees that no image needs any more, as [`PodmanStore::remove_image`] does.
    pub(crate) fn remove_images(&self, ids: &[String]) -> Result<Vec<BaseId>, Failure> {
        let mut freed: Vec<Value> = Vec::new();
        self.change("images", |images| {
            let is_removed = |image: &Value| image["id"].as_str().is_some_and(|id| ids.iter().any(|other| other == id));
            freed = images.iter().filter(|image| is_removed(image)).map(|image| image["layer"].clone()).collect();
            images.retain(|image| !is_removed(image));
            freed.retain(|layer| images.iter().all(|image| image["layer"] != *layer));
        })?;
        self.remove_documents()?;
        self.change("layers", |layers| layers.retain(|layer| !freed.contains(&layer["id"])))?;
        let mut freed: Vec<BaseId> = freed.iter().filter_map(|layer| layer.as_str()?.parse().ok()).collect();
        freed.sort_unstable();
        freed.dedup();
        Ok(freed)
    }

    /// Removes what is left of a layer that is not mounted.
    pub(crate) fn remove_layer(&self, base: &BaseId) -> Result<(), Failure> {
        let tree = self.tree(base);
        let layer = tree.with_file_name("");
        let link = fs::read_to_string(layer.join("link")).unwrap_or_default();
        if !link.is_empty() {
            let _ = fs::remove_file(self.0.join("overlay/l").join(link));
        }
        // Not with what is in it: if it is still mounted, that is an image.
        fs::remove_dir(&tree).about(tree.display())?;
        fs::remove_dir_all(&layer).about(layer.display())
    }

    /// Removes the documents of images that are no longer in the list.
    fn remove_documents(&self) -> Result<(), Failure> {
        let directory = self.0.join("overlay-images");
        let images: Vec<Value> = json_file::read(&directory.join("images.json"))?;
        for entry in fs::read_dir(&directory).about(directory.display())?.flatten() {
            let is_listed = images.iter().any(|image| image["id"].as_str().is_some_and(|id| entry.file_name() == id));
            if !is_listed && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                fs::remove_dir_all(entry.path()).about(entry.path().display())?;
            }
        }
        Ok(())
    }

    fn path(&self, list: &str) -> PathBuf {
        self.0.join(format!("overlay-{list}/{list}.json"))
    }

    /// Returns one of the two lists.
    fn list(&self, list: &str) -> Result<Vec<Value>, Failure> {
        let path = self.path(list);
        if path.exists() { json_file::read(&path) } else { Ok(Vec::new()) }
    }

    /// Changes one of the two lists.
    fn change(&self, list: &str, change: impl FnOnce(&mut Vec<Value>)) -> Result<(), Failure> {
        let mut entries = self.list(list)?;
        change(&mut entries);
        json_file::write(&self.path(list), &entries)
    }
}

fn has_name(image: &Value, reference: &str) -> bool {
    image["names"].as_array().is_some_and(|names| names.iter().any(|name| name == reference))
}

/// Removes a name from an image.
fn take_name(image: &mut Value, reference: &str) {
    if let Some(names) = image["names"].as_array_mut() {
        names.retain(|name| name != reference);
    }
}

/// Returns the id of an image that has no name.
fn unnamed_id(image: &Value) -> Option<String> {
    let is_unnamed = image["names"].as_array().is_none_or(Vec::is_empty);
    image["id"].as_str().filter(|_| is_unnamed).map(str::to_owned)
}

/// Returns the name of a document's file (`makeBigDataBaseName` of containers/storage).
fn file_name(document: &str) -> String {
    let is_plain = |sign: char| sign == '.' || sign.is_ascii_digit() || sign.is_ascii_lowercase();
    match document.chars().all(is_plain) {
        true => document.to_owned(),
        false => format!("={}", base64::engine::general_purpose::STANDARD.encode(document)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(reference: &str, base: &str, config: &str) -> PodmanImage {
        PodmanImage {
            reference: reference.into(),
            manifest: format!("manifest of {config}").into_bytes(),
            config: config.into(),
            config_digest: Digest::of(config.as_bytes()),
            base: base.repeat(64).parse().unwrap(),
            bytes: 5,
            created: "2026-01-01T00:00:00Z".into(),
        }
    }

    #[test]
    fn documents_have_the_file_names_of_podman() {
        assert_eq!(file_name("manifest"), "manifest");
        assert_eq!(file_name("sha256:ab"), "=c2hhMjU2OmFi");
    }

    #[test]
    fn a_layer_goes_with_the_last_image_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = PodmanStore::open(directory.path()).unwrap();
        let list = |name: &str| -> Vec<Value> { json_file::read(&directory.path().join(name)).unwrap() };
        let images = [image("a:1", "a", "x"), image("a:2", "a", "x"), image("b:1", "a", "y")];
        for image in &images {
            store.add_layer(&image.base).unwrap();
            store.add_image(image).unwrap();
        }
        let names: Vec<Value> = list("overlay-images/images.json").iter().map(|image| image["names"].clone()).collect();
        assert_eq!(names, [json!(["a:1", "a:2"]), json!(["b:1"])]);
        assert_eq!(list("overlay-layers/layers.json").len(), 1);
        assert_eq!(store.remove_image("a:1").unwrap(), []);
        assert_eq!(store.remove_image("a:2").unwrap(), []);
        assert!(store.remove_image("a:2").is_err());
        assert_eq!(store.remove_image("b:1").unwrap(), [images[0].base]);
        store.remove_layer(&images[0].base).unwrap();
        assert_eq!(fs::read_dir(directory.path().join("overlay-images")).unwrap().count(), 2);
        assert!(list("overlay-images/images.json").is_empty() && list("overlay-layers/layers.json").is_empty());
        assert_eq!(fs::read_dir(directory.path().join("overlay/l")).unwrap().count(), 0);
    }

    #[test]
    fn an_image_whose_name_moves_stays_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = PodmanStore::open(directory.path()).unwrap();
        let [old, new] = [image("a:1", "a", "x"), image("a:1", "b", "y")];
        for image in [&old, &new] {
            store.add_layer(&image.base).unwrap();
            store.add_image(image).unwrap();
        }
        let unnamed = store.unnamed().unwrap();
        assert_eq!(unnamed, [old.config_digest.hex()]);
        assert_eq!(store.remove_images(&unnamed).unwrap(), [old.base]);
        assert!(store.unnamed().unwrap().is_empty());
        // The name comes back to an image that has lost it.
        store.add_image(&old).unwrap();
        store.add_image(&new).unwrap();
        store.add_image(&old).unwrap();
        assert_eq!(store.unnamed().unwrap(), [new.config_digest.hex()]);
        assert_eq!(store.remove_image("a:1").unwrap(), [old.base]);
        assert_eq!(store.unnamed().unwrap(), [new.config_digest.hex()], "it is not removed with another");
    }
}
