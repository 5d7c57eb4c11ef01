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

use std::collections::HashSet;
use std::fs;
use std::io;
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
            && error.kind() != io::ErrorKind::AlreadyExists
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

    /// Removes the name of an image, and with its last name the image, as [`PodmanStore::remove`] does.
    pub(crate) fn remove_name(
        &self,
        reference: &str,
        unmount: impl FnOnce(&Path) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let images = self.list("images")?;
        let Some(image) = images.iter().find(|image| has_name(image, reference)) else {
            return Err(Failure::new(reference, "podman was not given this image")
                .with_hint("`podman images` lists what podman has"));
        };
        match unnamed_id(&without_name(image, reference)) {
            Some(id) => self.remove(&id, unmount),
            None => self.change("images", |images| images.iter_mut().for_each(|image| take_name(image, reference))),
        }
    }

    /// Returns the images whose names others have taken: their ids and layers.
    pub(crate) fn unnamed(&self) -> Result<Vec<(String, BaseId)>, Failure> {
        Ok(self.list("images")?.iter().filter_map(|image| Some((unnamed_id(image)?, layer(image)?))).collect())
    }

    /// Removes an image by its id. If no other image needs its layer, the tree is given to `unmount` first and the layer is
    /// removed too. If that fails, the image stays, and a later call finds it.
    pub(crate) fn remove(&self, id: &str, unmount: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut images = self.list("images")?;
        let removed: Vec<Value> = images.extract_if(.., |image| image["id"] == id).collect();
        let freed =
            removed.iter().filter_map(layer).find(|base| images.iter().all(|image| layer(image) != Some(*base)));
        if let Some(base) = &freed {
            unmount(&self.tree(base))?;
            self.remove_layer(base)?;
        }
        self.change("images", |images| images.retain(|image| image["id"] != id))?;
        self.remove_documents()?;
        match freed {
            Some(base) => self.change("layers", |layers| layers.retain(|layer| layer["id"] != base.hex())),
            None => Ok(()),
        }
    }

    /// Removes the files of a layer that is not mounted. An earlier call may have removed them.
    fn remove_layer(&self, base: &BaseId) -> Result<(), Failure> {
        let tree = self.tree(base);
        let layer = tree.with_file_name("");
        let link = fs::read_to_string(layer.join("link")).unwrap_or_default();
        if !link.is_empty() {
            let _ = fs::remove_file(self.0.join("overlay/l").join(link));
        }
        // Not with what is in it: if it is still mounted, that is an image.
        unless_missing(fs::remove_dir(&tree)).about(tree.display())?;
        unless_missing(fs::remove_dir_all(&layer)).about(layer.display())
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

/// What podman's own store, which it writes, needs of the images that it reads elsewhere.
#[derive(Debug, Default)]
pub(crate) struct InUse {
    images: HashSet<String>,
    layers: HashSet<String>,
}

impl InUse {
    /// Reads a store of podman. `roots` are its directories, of which the second has what is removed at a reboot.
    pub(crate) fn read(roots: &[&Path]) -> Result<Self, Failure> {
        let mut used = Self::default();
        for root in roots {
            for name in ["containers", "volatile-containers"] {
                used.images.extend(texts(&root.join(format!("overlay-containers/{name}.json")), "image")?);
            }
            // A container, of podman or buildah, has a layer of its own on that of its image, as a child of the image has.
            for name in ["layers", "volatile-layers"] {
                used.layers.extend(texts(&root.join(format!("overlay-layers/{name}.json")), "parent")?);
            }
        }
        Ok(used)
    }

    /// Whether it needs an image or a layer.
    pub(crate) fn needs(&self, image: &str, base: &BaseId) -> bool {
        self.images.contains(image) || self.layers.contains(&base.hex())
    }
}

/// Returns one member of all entries of a list that may be missing.
fn texts(list: &Path, member: &str) -> Result<Vec<String>, Failure> {
    let entries: Vec<Value> = if list.exists() { json_file::read(list)? } else { Vec::new() };
    Ok(entries.iter().filter_map(|entry| entry[member].as_str().map(str::to_owned)).collect())
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

/// Returns an image without one of its names.
fn without_name(image: &Value, reference: &str) -> Value {
    let mut image = image.clone();
    take_name(&mut image, reference);
    image
}

/// Returns the layer of an image.
fn layer(image: &Value) -> Option<BaseId> {
    image["layer"].as_str()?.parse().ok()
}

fn unless_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
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

    /// A store that was given these images, one after the other.
    fn store_of(images: &[&PodmanImage]) -> (tempfile::TempDir, PodmanStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = PodmanStore::open(directory.path()).unwrap();
        for image in images {
            store.add_layer(&image.base).unwrap();
            store.add_image(image).unwrap();
        }
        (directory, store)
    }

    #[allow(clippy::unnecessary_wraps, reason = "the signature is that of an unmount that can fail")]
    fn unmounted(_: &Path) -> Result<(), Failure> {
        Ok(())
    }

    #[test]
    fn documents_have_the_file_names_of_podman() {
        assert_eq!(file_name("manifest"), "manifest");
        assert_eq!(file_name("sha256:ab"), "=c2hhMjU2OmFi");
    }

    #[test]
    fn a_layer_goes_with_the_last_image_on_it() {
        let (directory, store) = store_of(&[&image("a:1", "a", "x"), &image("a:2", "a", "x"), &image("b:1", "a", "y")]);
        let list = |name: &str| -> Vec<Value> { json_file::read(&directory.path().join(name)).unwrap() };
        let names: Vec<Value> = list("overlay-images/images.json").iter().map(|image| image["names"].clone()).collect();
        assert_eq!(names, [json!(["a:1", "a:2"]), json!(["b:1"])]);
        assert_eq!(list("overlay-layers/layers.json").len(), 1);
        let kept = |_: &Path| panic!("another image needs the layer");
        store.remove_name("a:1", kept).unwrap();
        store.remove_name("a:2", kept).unwrap();
        assert!(store.remove_name("a:2", kept).is_err());
        store.remove_name("b:1", unmounted).unwrap();
        assert_eq!(fs::read_dir(directory.path().join("overlay-images")).unwrap().count(), 2);
        assert!(list("overlay-images/images.json").is_empty() && list("overlay-layers/layers.json").is_empty());
        assert_eq!(fs::read_dir(directory.path().join("overlay/l")).unwrap().count(), 0);
    }

    #[test]
    fn an_image_whose_name_moves_stays_until_it_is_removed() {
        let [old, new] = [image("a:1", "a", "x"), image("a:1", "b", "y")];
        let (_directory, store) = store_of(&[&old, &new]);
        assert_eq!(store.unnamed().unwrap(), [(old.config_digest.hex(), old.base)]);
        store.remove(&old.config_digest.hex(), unmounted).unwrap();
        assert!(store.unnamed().unwrap().is_empty());
        // The name comes back to an image that has lost it.
        store.add_image(&old).unwrap();
        store.add_image(&new).unwrap();
        store.add_image(&old).unwrap();
        let unnamed = [(new.config_digest.hex(), new.base)];
        assert_eq!(store.unnamed().unwrap(), unnamed);
        store.remove_name("a:1", unmounted).unwrap();
        assert_eq!(store.unnamed().unwrap(), unnamed, "it is not removed with another");
    }

    #[test]
    fn an_image_that_cannot_be_unmounted_stays_in_the_lists() {
        let [old, new] = [image("a:1", "a", "x"), image("a:1", "b", "y")];
        let (_directory, store) = store_of(&[&old, &new]);
        let busy = |_: &Path| Err(Failure::new("the tree", "busy"));
        let before = (store.list("images").unwrap(), store.list("layers").unwrap());
        store.remove(&old.config_digest.hex(), busy).unwrap_err();
        store.remove_name("a:1", busy).unwrap_err();
        assert_eq!((store.list("images").unwrap(), store.list("layers").unwrap()), before);
        assert!(store.tree(&old.base).exists() && store.tree(&new.base).exists());
        // An earlier removal ended before it had changed the lists.
        store.remove_layer(&old.base).unwrap();
        store.remove(&old.config_digest.hex(), unmounted).unwrap();
        store.remove_name("a:1", unmounted).unwrap();
        assert!(store.list("images").unwrap().is_empty() && store.list("layers").unwrap().is_empty());
    }

    #[test]
    fn what_containers_and_layers_of_podman_are_on_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let bases = ["a", "b", "c"].map(|sign| image("a:1", sign, "x").base);
        let files = [
            ("one/overlay-layers/layers.json", json!([{ "id": "1", "parent": bases[0].hex() }, { "id": "2" }])),
            ("two/overlay-layers/volatile-layers.json", json!([{ "id": "3", "parent": bases[1].hex() }])),
            ("one/overlay-containers/containers.json", json!([{ "id": "4", "image": "used" }])),
        ];
        for (name, list) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, list.to_string()).unwrap();
        }
        let roots = [directory.path().join("one"), directory.path().join("two")];
        let used = InUse::read(&roots.each_ref().map(PathBuf::as_path)).unwrap();
        assert_eq!(bases.map(|base| used.needs("other", &base)), [true, true, false]);
        assert!(used.needs("used", &bases[2]));
        fs::write(roots[0].join("overlay-layers/layers.json"), "[").unwrap();
        assert!(InUse::read(&[&roots[0]]).is_err(), "what cannot be read may be in use");
    }
}
