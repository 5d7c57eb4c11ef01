//! Chooses one image: finds the manifest and config of the wanted platform, through indexes.
//!
//! An index says little that can be relied on. Its entries may have no platform, or one without the variant;
//! attestations and artifacts are among them, and other indexes. So its entries are only ranked by what it
//! says about them. Then they are read, the best first, until one is an image for the wanted platform.

use std::cell::Cell;

use super::ImageError;
use super::manifest::{self, CONFIG_LIMIT, Config, Descriptor, Document, Index, IndexEntry, MANIFEST_LIMIT, Manifest};
use super::media_type::{self, MANIFESTS, OCI_CONFIG};
use super::platform::{Described, Fit, Platform};
use crate::Digest;

/// How many indexes within indexes are followed. One is rare, and two do not occur.
pub(crate) const INDEX_DEPTH: usize = 3;
/// How many documents are read to choose one image. Real images have some twenty platforms.
const LOOKS: usize = 100;

/// Where the documents of images come from: a registry, or an archive.
pub(crate) trait Documents {
    /// Why a document cannot be fetched.
    type Error;

    /// Returns the document that `descriptor` names, verified. `what` names it in errors.
    fn document(&self, what: &str, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, Self::Error>;

    /// Returns whether the error says only that the document does not exist. Others may still exist.
    fn is_absent(&self, error: &Self::Error) -> bool;
}

/// The image for one platform.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) manifest: Manifest,
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) config: Config,
    pub(crate) config_bytes: Vec<u8>,
    /// What its config says about its platform, or else its entry in the index, or else the wanted platform.
    pub(crate) platform: Platform,
}

/// Why no image was chosen.
#[derive(Debug)]
pub(crate) enum ChoiceError<E> {
    /// The documents exist, but are not what is wanted.
    Image(ImageError),
    /// A document cannot be fetched.
    Document(E),
}

impl<E> From<ImageError> for ChoiceError<E> {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

/// Chooses one image among documents.
pub(crate) struct Choice<'a, D> {
    pub(crate) documents: &'a D,
    pub(crate) wanted: &'a Platform,
    /// Whether the user asked for that platform and accepts no other.
    pub(crate) is_asked_for: bool,
}

/// The rank of an entry, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Its platform is given and fits, at this distance.
    Fits(u32),
    /// Only reading the image tells.
    Unknown,
    /// It needs features that are not known here, or is probably an artifact. It is used only if nothing else fits.
    LastResort,
}

/// Counts the documents read for one choice.
struct Looks(Cell<usize>);

impl<D: Documents> Choice<'_, D> {
    /// Returns the image that a document is or leads to.
    pub(crate) fn of_document(
        &self,
        bytes: Vec<u8>,
        digest: Digest,
        content_type: Option<&str>,
    ) -> Result<Chosen, ChoiceError<D::Error>> {
        match manifest::parse(&bytes, content_type)? {
            Document::Manifest(manifest) => {
                let chosen = self.image(manifest, digest, bytes, &Described::default())?;
                self.unless_refused(chosen)
            }
            Document::Index(index) => self.of_entries(index),
        }
    }

    /// Returns the best image that an index leads to.
    pub(crate) fn of_entries(&self, index: Index) -> Result<Chosen, ChoiceError<D::Error>> {
        self.search(index, &Described::default(), 0, &Looks(Cell::new(0)))
    }

    fn unless_refused(&self, chosen: Chosen) -> Result<Chosen, ChoiceError<D::Error>> {
        if self.is_asked_for && chosen.config.platform.fit(self.wanted) == Fit::No {
            return Err(self.no_platform(vec![chosen.platform]).into());
        }
        Ok(chosen)
    }

    fn search(
        &self,
        index: Index,
        outer: &Described,
        depth: usize,
        looks: &Looks,
    ) -> Result<Chosen, ChoiceError<D::Error>> {
        let Index { entries, refused: unreadable } = index;
        let mut candidates = Vec::new();
        let mut offered = Vec::new();
        for entry in &entries {
            let platform = entry.platform.clone().or(outer);
            match self.rank(entry, &platform) {
                Some(rank) => candidates.push((rank, entry, platform)),
                None => offered.extend(platform.named().map(|named| (named, entry))),
            }
        }
        candidates.sort_by_key(|(rank, ..)| *rank);
        let mut best: Option<Best> = None;
        let (mut contradicting, mut absent, mut broken, mut refused) = (None, None, None, None);
        let mut inside = Vec::new();
        for (rank, entry, platform) in candidates {
            if best.as_ref().is_some_and(|best| best.class < rank.class()) {
                break;
            }
            match self.look(entry, &platform, depth, looks) {
                Ok(chosen) => match chosen.config.platform.fit(self.wanted) {
                    Fit::Yes(0) => return Ok(chosen),
                    Fit::Yes(_) if matches!(rank, Rank::Fits(_)) => return Ok(chosen),
                    Fit::Yes(distance) => Best::keep(&mut best, rank, Rank::Fits(distance), chosen),
                    Fit::Unknown => Best::keep(&mut best, rank, Rank::Unknown, chosen),
                    Fit::No => {
                        inside.extend(chosen.config.platform.named());
                        contradicting = contradicting.or(matches!(rank, Rank::Fits(_)).then_some(chosen));
                    }
                },
                Err(ChoiceError::Image(ImageError::NoSuchPlatform { offered, .. })) => inside.extend(offered),
                Err(ChoiceError::Image(error)) if is_a_lie(&error) => return Err(error.into()),
                Err(ChoiceError::Image(error)) if matches!(rank, Rank::Fits(_)) => drop(broken.get_or_insert(error)),
                Err(ChoiceError::Image(error)) => drop(refused.get_or_insert(error)),
                Err(ChoiceError::Document(error)) if self.documents.is_absent(&error) => {
                    absent.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(best) = best {
            return Ok(best.chosen);
        }
        // The index and the image disagree about the platform.
        if let Some(chosen) = contradicting.filter(|_| !self.is_asked_for) {
            return Ok(chosen);
        }
        if let Some(absent) = absent {
            let there = offered.into_iter().filter(|(_, entry)| self.is_there(entry)).map(|(platform, _)| platform);
            let there: Vec<Platform> = inside.into_iter().chain(there).collect();
            return Err(if there.is_empty() { ChoiceError::Document(absent) } else { self.no_platform(there).into() });
        }
        if let Some(broken) = broken {
            return Err(broken.into());
        }
        inside.extend(offered.into_iter().map(|(platform, _)| platform));
        if !inside.is_empty() {
            return Err(self.no_platform(inside).into());
        }
        let nothing = || ImageError::NotAnImage("its index lists no image".to_owned());
        Err(refused.or(unreadable).unwrap_or_else(nothing).into())
    }

    /// Returns how good a candidate an entry is, or `None` if it is not a candidate.
    fn rank(&self, entry: &IndexEntry, platform: &Described) -> Option<Rank> {
        if platform.is_none_on_purpose() || entry.annotations.contains_key("vnd.docker.reference.type") {
            return None;
        }
        let media_type = media_type::bare(&entry.descriptor.media_type);
        let is_document = media_type::is_generic(media_type) || MANIFESTS.contains(&media_type);
        let is_artifact = entry.artifact_type.as_deref().is_some_and(|kind| !kind.is_empty() && kind != OCI_CONFIG);
        match platform.fit(self.wanted) {
            Fit::No => None,
            _ if !is_document || is_artifact || !entry.os_features.is_empty() => Some(Rank::LastResort),
            Fit::Yes(distance) => Some(Rank::Fits(distance)),
            Fit::Unknown => Some(Rank::Unknown),
        }
    }

    /// Returns the image of one entry, which may be another index.
    fn look(
        &self,
        entry: &IndexEntry,
        platform: &Described,
        depth: usize,
        looks: &Looks,
    ) -> Result<Chosen, ChoiceError<D::Error>> {
        let endless = |cause: &str| ImageError::Malformed { what: "image index".to_owned(), cause: cause.to_owned() };
        looks.0.set(looks.0.get() + 1);
        if looks.0.get() > LOOKS {
            return Err(endless("it has more entries without a platform than any image").into());
        }
        let descriptor = &entry.descriptor;
        let bytes = self.document("manifest", descriptor, MANIFEST_LIMIT)?;
        match manifest::parse(&bytes, Some(&descriptor.media_type))? {
            Document::Manifest(manifest) => self.image(manifest, Digest::of(&bytes), bytes, platform),
            Document::Index(_) if depth == INDEX_DEPTH => {
                Err(endless("its indexes lead to indexes without end").into())
            }
            Document::Index(index) => self.search(index, platform, depth + 1, looks),
        }
    }

    /// Reads the config that belongs to a manifest. `entry` is what the index says about the platform.
    fn image(
        &self,
        manifest: Manifest,
        manifest_digest: Digest,
        manifest_bytes: Vec<u8>,
        entry: &Described,
    ) -> Result<Chosen, ChoiceError<D::Error>> {
        let config_bytes = self.document("config", &manifest.config, CONFIG_LIMIT)?;
        let mut config = manifest::parse_config(&config_bytes, manifest.layers.len())?;
        config.platform = config.platform.or(entry);
        let platform = config.platform.assumed(self.wanted);
        Ok(Chosen { manifest, manifest_digest, manifest_bytes, config, config_bytes, platform })
    }

    fn document(&self, what: &str, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, ChoiceError<D::Error>> {
        self.documents.document(what, descriptor, limit).map_err(ChoiceError::Document)
    }

    /// Returns whether the manifest of an entry can be fetched, so naming its platform helps.
    fn is_there(&self, entry: &IndexEntry) -> bool {
        self.documents.document("manifest", &entry.descriptor, MANIFEST_LIMIT).is_ok()
    }

    fn no_platform(&self, platforms: Vec<Platform>) -> ImageError {
        let mut offered = Vec::new();
        for platform in platforms {
            if !offered.contains(&platform) {
                offered.push(platform);
            }
        }
        ImageError::NoSuchPlatform { wanted: self.wanted.clone(), offered }
    }
}

impl Rank {
    /// Returns the class of a rank. Images of one class are compared after they have been read.
    fn class(self) -> u8 {
        match self {
            Self::Fits(_) => 0,
            Self::Unknown => 1,
            Self::LastResort => 2,
        }
    }
}

/// The best image so far.
struct Best {
    /// The rank of its entry in the index.
    class: u8,
    /// How well it fits, now that it has been read.
    rank: Rank,
    chosen: Chosen,
}

impl Best {
    /// Keeps the better of two images; the first of equals, as the specification asks.
    fn keep(best: &mut Option<Self>, listed: Rank, rank: Rank, chosen: Chosen) {
        if best.as_ref().is_none_or(|kept| rank < kept.rank) {
            *best = Some(Self { class: listed.class(), rank, chosen });
        }
    }
}

/// Returns whether a document is not what its name promises. Nothing else from the same source can be trusted then.
fn is_a_lie(error: &ImageError) -> bool {
    matches!(error, ImageError::WrongDigest { .. } | ImageError::WrongSize { .. })
}

#[cfg(test)]
mod tests;
