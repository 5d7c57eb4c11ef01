//! Bases: a base is made once for an image and a variant, and opened as a view.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{BufWriter, Cursor};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::list;
use super::handle::Store;
use super::images::Image;
use super::layers::open_index;
use crate::base::{Base, MergedTree};
use crate::error::StoreError;
use crate::fault::{self, FaultPoint};
use crate::layer::{InodeRecord, LayerIndex};
use crate::lease::{Held, Lease};
use crate::lock::FileLock;
use crate::mapped::IndexBytes;
use crate::observer::{Logged, Observer};
use crate::oci::parallel;
use crate::regular;
use crate::view::ViewLayer;
use crate::{BaseId, DiffId, View};

/// The file `recipe` of a base: the layers of image and variant, each bottom first. The directory is named by their
/// base id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Recipe {
    pub(super) image: Vec<DiffId>,
    pub(super) variant: Vec<DiffId>,
}

impl Recipe {
    pub(super) fn layers(&self) -> impl Iterator<Item = &DiffId> {
        self.image.iter().chain(&self.variant)
    }

    pub(super) fn id(&self) -> BaseId {
        BaseId::of(&self.image, &self.variant)
    }

    fn held(&self) -> Vec<Held> {
        self.layers().map(|layer| Held::Layer(*layer)).chain([Held::Base(self.id())]).collect()
    }
}

/// The operations on a store's bases: see [`Store::bases`].
#[derive(Clone, Copy, Debug)]
pub struct Bases<'store> {
    pub(super) store: &'store Store,
}

impl Store {
    /// Returns the operations on its bases.
    #[must_use]
    pub fn bases(&self) -> Bases<'_> {
        Bases { store: self }
    }
}

impl Bases<'_> {
    /// Returns the base of an image with the layers of a variant on top, and makes it first if necessary.
    ///
    /// If several processes need it, one makes it and the others wait.
    pub fn prepare(&self, image: &Image, variant: &[DiffId], observer: &dyn Observer) -> Result<BaseId, StoreError> {
        self.prepared(&image.layers, variant, observer, Some(&image.reference))
    }

    /// Does the same for layers that belong to no image, bottom first.
    pub fn prepare_layers(
        &self,
        layers: &[DiffId],
        variant: &[DiffId],
        observer: &dyn Observer,
    ) -> Result<BaseId, StoreError> {
        self.prepared(layers, variant, observer, None)
    }

    /// `name` is the image's name, for the message about a wait.
    fn prepared(
        &self,
        layers: &[DiffId],
        variant: &[DiffId],
        observer: &dyn Observer,
        name: Option<&str>,
    ) -> Result<BaseId, StoreError> {
        let recipe = Recipe { image: layers.to_vec(), variant: variant.to_vec() };
        let id = recipe.id();
        let work = name.map_or_else(|| format!("makes base {id}"), |name| format!("prepares {name}"));
        self.store.hold_recipe(&recipe, observer)?;
        if self.store.has_base(&id) {
            return Ok(id);
        }
        match self.store.make_base(&recipe, (observer, &work), &|| self.store.has_base(&id)) {
            // Opening the base merges the layers in memory instead.
            Err(error) if error.is_closed() && self.store.recipe(&id).is_ok() => {}
            made => made?,
        }
        Ok(id)
    }

    /// Returns the bases that live processes use. Their layers stay in the store for as long as these processes use them.
    pub fn in_use(&self) -> Result<BTreeSet<BaseId>, StoreError> {
        let mut bases = BTreeSet::new();
        for path in list(&self.store.layout.join("leases"))? {
            let things = Lease::read(&path, self.store.owner)?.map_or_else(Vec::new, |(_, things)| things);
            bases.extend(things.into_iter().filter_map(|thing| match thing {
                Held::Base(base) => Some(base),
                Held::Layer(_) | Held::Manifest(_) => None,
            }));
        }
        Ok(bases)
    }

    /// Opens a base for reading. The view keeps the base and its layers from being collected.
    ///
    /// A base or an index that is damaged or of another version is rebuilt first.
    pub fn open(&self, id: &BaseId) -> Result<View, StoreError> {
        let recipe = self.store.recipe(id)?;
        self.store.hold_recipe(&recipe, &Logged)?;
        let leases = self.store.leases_of_view(&recipe.held())?;
        let opened = self.store.view_layers(&recipe)?;
        let layers: Vec<ViewLayer> = recipe.layers().filter_map(|layer| opened.get(layer).cloned()).collect();
        let base = match self.store.checked_base(&recipe, &layers) {
            Ok(base) => base,
            Err(cause) => {
                tracing::info!("base {id}: rebuilding it: {cause}");
                self.store.remade_base(&recipe, &layers)?
            }
        };
        Ok(View::new(base, layers, leases))
    }
}

impl Store {
    /// Holds the base and its layers, and copies layers that only stores of other users have.
    fn hold_recipe(&self, recipe: &Recipe, observer: &dyn Observer) -> Result<(), StoreError> {
        let missing = self.hold_where_they_are(recipe.layers(), &[Held::Base(recipe.id())])?;
        missing.into_iter().try_for_each(|layer| self.take_over(layer, observer))
    }

    /// Whether a base is complete. Bases are not synced, so a power cut may have left only a part.
    fn has_base(&self, id: &BaseId) -> bool {
        self.open_base(id).is_ok() && self.recipe(id).is_ok()
    }

    fn open_base(&self, id: &BaseId) -> Result<Base, String> {
        let bytes = IndexBytes::open(&self.layout.base(id).join("index")).map_err(|cause| cause.to_string())?;
        Base::open(bytes).map_err(|cause| cause.to_string())
    }

    /// Makes a base, and replaces one that may exist, unless `is_there` returns true once no other process is making
    /// it.
    fn make_base(
        &self,
        recipe: &Recipe,
        (observer, work): (&dyn Observer, &str),
        is_there: &dyn Fn() -> bool,
    ) -> Result<(), StoreError> {
        let id = recipe.id();
        let _lock = FileLock::wait(&self.layout.lock(&format!("base-{id}")), observer, work)?;
        fault::point(FaultPoint::BaseClaimed);
        if is_there() {
            return Ok(());
        }
        let mut opened = HashMap::new();
        for layer in recipe.layers() {
            if !opened.contains_key(layer) {
                opened.insert(*layer, self.layer_index(layer)?);
            }
        }
        let indexes: Vec<_> = recipe.layers().filter_map(|layer| opened.get(layer)).collect();
        let merged = merge(&indexes)?;
        let staging = self.staging()?;
        write_base(staging.path(), recipe, &merged)?;
        fault::point(FaultPoint::BaseStaged);
        let place = self.layout.base(&id);
        // A damaged base, or one of another version, may exist; a process that has it open keeps it.
        regular::make_directory(&place).map_err(StoreError::io(&place))?;
        for (name, published) in [("recipe", FaultPoint::RecipePublished), ("index", FaultPoint::BasePublished)] {
            let to = place.join(name);
            fs::rename(staging.path().join(name), &to).map_err(StoreError::io(&to))?;
            fault::point(published);
        }
        tracing::info!("prepared base {id}");
        Ok(())
    }

    pub(super) fn recipe(&self, id: &BaseId) -> Result<Recipe, StoreError> {
        let path = self.layout.base(id).join("recipe");
        let text = regular::read(&path, regular::NOTE_MAX).map_err(|_| StoreError::NoSuchBase(*id))?;
        let recipe: Option<Recipe> = serde_json::from_slice(&text).ok();
        recipe.filter(|recipe| recipe.id() == *id).ok_or(StoreError::NoSuchBase(*id))
    }

    /// Rebuilds a base that cannot be used; in memory if this process may not write the store.
    fn remade_base(&self, recipe: &Recipe, layers: &[ViewLayer]) -> Result<Base, StoreError> {
        let work = format!("makes base {}", recipe.id());
        fault::point(FaultPoint::BaseRefused);
        // Another process may have found the same damage and repaired it.
        match self.make_base(recipe, (&Logged, &work), &|| self.checked_base(recipe, layers).is_ok()) {
            Ok(()) => self.checked_base(recipe, layers).map_err(StoreError::Merge),
            Err(error) if error.is_closed() => base_in_memory(layers),
            Err(error) => Err(error),
        }
    }

    /// Fails if a layer has a hard link into lower layers whose target does not exist. Does not rebuild indexes: if one
    /// is missing or unusable, this is checked when the base is made.
    pub(super) fn check_links(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        let mut opened = HashMap::new();
        for layer in layers {
            if !opened.contains_key(layer) {
                let Ok(index) = open_index(&self.home(layer).layout.layer_index(layer), layer) else { return Ok(()) };
                opened.insert(*layer, index);
            }
        }
        let indexes: Vec<_> = layers.iter().filter_map(|layer| opened.get(layer)).collect();
        let leads_below = |index: &&LayerIndex| index.inodes().first().is_some_and(InodeRecord::has_foreign_below);
        if indexes.iter().any(leads_below) { merge(&indexes).map(drop) } else { Ok(()) }
    }

    /// Opens the distinct layers of a base. Most of the cost is checking their indexes, so this uses all processors.
    fn view_layers(&self, recipe: &Recipe) -> Result<HashMap<DiffId, ViewLayer>, StoreError> {
        let different: Vec<DiffId> = recipe.layers().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let length = |layer: &DiffId| fs::metadata(self.layout.layer_index(layer)).map_or(0, |index| index.len());
        let opened =
            parallel::for_each(&different, threads, &|| (), length, |layer| Ok((*layer, self.view_layer(layer)?)));
        Ok(opened?.into_iter().collect())
    }

    fn checked_base(&self, recipe: &Recipe, layers: &[ViewLayer]) -> Result<Base, String> {
        let base = self.open_base(&recipe.id())?;
        if !base.layers().eq(recipe.layers().copied()) {
            return Err("it is the base of other layers".into());
        }
        base.check(layers).map_err(|cause| cause.to_string())?;
        Ok(base)
    }
}

fn merge<I: AsRef<LayerIndex>>(indexes: &[I]) -> Result<MergedTree, StoreError> {
    MergedTree::of(indexes).map_err(|cause| StoreError::Merge(cause.to_string()))
}

fn base_in_memory(layers: &[ViewLayer]) -> Result<Base, StoreError> {
    let made = merge(layers)?.write(Cursor::new(Vec::new())).map_err(|cause| StoreError::Merge(cause.to_string()))?;
    Base::open(IndexBytes::Owned(made.into_inner())).map_err(|cause| StoreError::Merge(cause.to_string()))
}

/// A base is a cache, so it is not synced.
fn write_base(directory: &Path, recipe: &Recipe, merged: &MergedTree) -> Result<(), StoreError> {
    let path = directory.join("recipe");
    let text = serde_json::to_vec(recipe).unwrap_or_default();
    regular::write(&path, &text).map_err(|cause| StoreError::write(&path, text.len() as u64, cause))?;
    let path = directory.join("index");
    let file = regular::create(&path).map_err(StoreError::io(&path))?;
    let written = |cause| StoreError::write(&path, fs::metadata(&path).map_or(0, |made| made.len()), cause);
    merged.write(BufWriter::new(file)).map(|_| ()).map_err(written)
}
