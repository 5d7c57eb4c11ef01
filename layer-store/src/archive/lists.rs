//! The images that an archive lists, and which of them to import.
//!
//! Images are chosen by what the lists say, and only those chosen are read, so a broken image does not affect the
//! others in the archive. An archive may have two lists: docker writes both since version 25. An entry of `index.json`
//! is preferred, because it leads to the original manifest; the item of `manifest.json` for the same image is used if
//! that entry is broken.

use super::docker::{self, Item};
use super::error::ImportError;
use super::files::Files;
use super::layout::{self, Layout, ListEntry};
use super::naming;
use super::{Form, Found};
use crate::oci::manifest::MANIFEST_LIMIT;
use crate::oci::platform::{Described, Fit, Platform};
use crate::oci::sink::LayerSink;
use crate::{ImageError, Observer, Reference};

/// The minimum number of digits of a digest that select an image.
const DIGITS: usize = 6;

/// What an archive lists.
pub(super) struct Lists<'a> {
    context: Context<'a>,
    entries: Vec<ListEntry>,
    items: Vec<Item>,
}

/// One image to read.
enum Pick<'l> {
    /// The entries of `index.json` with the same name, or a single one, and the item of `manifest.json` with that name.
    Entries(Vec<&'l ListEntry>, Option<&'l Item>),
    /// An item of `manifest.json` alone.
    Item(&'l Item),
}

/// What the reading of an archive depends on.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) sink: &'a dyn LayerSink,
    pub(super) progress: &'a dyn Observer,
    pub(super) source_name: &'a str,
    /// The repository to use for names that are only a tag.
    pub(super) repository: &'a str,
    pub(super) wanted: &'a Platform,
    /// Whether the user chose that platform.
    pub(super) is_asked_for: bool,
}

impl<'a> Context<'a> {
    fn layout(&self) -> Layout<'a> {
        let Self { files, source_name, wanted, is_asked_for, .. } = *self;
        Layout { files, source_name, wanted, is_asked_for }
    }
}

impl<'a> Lists<'a> {
    /// Reads the lists of an archive, or only that of `form` if one is given.
    pub(super) fn read(context: Context<'a>, form: Option<Form>) -> Result<Self, ImportError> {
        let Context { files, progress, source_name, .. } = context;
        // A list that cannot be read also counts as present.
        let is_there = |list| !matches!(files.document(list, MANIFEST_LIMIT), Ok(None));
        let has_entries = form != Some(Form::Docker) && is_there(layout::LIST);
        let has_items = form != Some(Form::Layout) && is_there(docker::LIST);
        let mut failures = Vec::new();
        let mut entries = Vec::new();
        if has_entries {
            entries = context.layout().entries().unwrap_or_else(|error| note(&mut failures, error));
        }
        let mut items = Vec::new();
        if has_items {
            items = docker::items(files, source_name).unwrap_or_else(|error| note(&mut failures, error));
        }
        if entries.is_empty() && items.is_empty() {
            let reason = match (has_entries || has_items, form) {
                (true, _) => "its list of images is empty".to_owned(),
                (false, Some(Form::Layout)) => format!("it has no {}", layout::LIST),
                (false, Some(Form::Docker)) => format!("it has no {}", docker::LIST),
                (false, None) => format!("it has neither {} nor {}", layout::LIST, docker::LIST),
            };
            let nothing = ImportError::NotAnArchive { source_name: source_name.to_owned(), reason };
            return Err(failures.into_iter().next().unwrap_or(nothing));
        }
        for failure in failures {
            progress.notice(&format!("{failure}: the archive's other list is used instead"));
        }
        Ok(Self { context, entries, items })
    }

    /// Reads all images, or those that `image` names.
    pub(super) fn images(&self, image: Option<&str>) -> Result<Vec<Found>, ImportError> {
        let Some(image) = image else {
            return self.read_all(self.picks(|_| true)?);
        };
        if let Some(position) = image.strip_prefix('@').and_then(|digits| digits.parse::<usize>().ok()) {
            let pick = match (self.entries.get(position), self.items.get(position)) {
                (Some(entry), _) => self.alone(entry),
                (None, Some(item)) if self.entries.is_empty() => Pick::Item(item),
                _ => return Err(self.no_such_image(image, None)),
            };
            return self.read_all(vec![pick]);
        }
        let called = self.picks(|written| self.is_called(written, image))?;
        if !called.is_empty() {
            let mut images = self.read_all(called)?;
            if let Some(digest) = image.parse::<Reference>().ok().and_then(|reference| reference.digest()) {
                images.retain(|image| image.proved.contains(&digest));
            }
            return if images.is_empty() { Err(self.no_such_image(image, None)) } else { Ok(images) };
        }
        self.by_digest(image)
    }

    /// Returns the images whose digest (of the entry, its manifest or its config) begins with `image`.
    fn by_digest(&self, image: &str) -> Result<Vec<Found>, ImportError> {
        let hex = image.strip_prefix("sha256:").unwrap_or(image);
        if hex.len() < DIGITS || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(self.no_such_image(image, None));
        }
        let begins = |digest: &str| digest.strip_prefix("sha256:").is_some_and(|digits| digits.starts_with(hex));
        let entries = self.entries.iter().filter(|entry| entry.digest.as_deref().is_some_and(begins));
        let mut picks: Vec<Pick<'_>> = entries.map(|entry| self.alone(entry)).collect();
        if picks.is_empty() {
            let items =
                self.items.iter().filter(|item| item.config().is_some_and(|digest| begins(&digest.to_string())));
            picks = items.map(Pick::Item).collect();
        }
        if !picks.is_empty() {
            return self.read_all(picks);
        }
        // It may be a digest that is only known after reading the image.
        let mut broken = None;
        let entries = self.entries.iter().map(|entry| self.alone(entry));
        let images = entries.chain(self.items.iter().map(Pick::Item)).filter_map(|pick| match self.read_one(&pick) {
            Ok(image) => Some(image).filter(|image| image.digests().any(|digest| digest.hex().starts_with(hex))),
            Err(error) => {
                broken.get_or_insert(error);
                None
            }
        });
        let images = merged(images.collect());
        if images.is_empty() { Err(self.no_such_image(image, broken)) } else { Ok(images) }
    }

    /// Returns what to read of the images whose names fit: one image for each name, and every image without a name.
    fn picks(&self, fits: impl Fn(&[String]) -> bool) -> Result<Vec<Pick<'_>>, ImportError> {
        let mut picks = Vec::new();
        for group in by_name(&self.entries) {
            let written: Vec<String> = group.first().and_then(|entry| entry.written.clone()).into_iter().collect();
            match (fits(&written), group.first().filter(|_| !written.is_empty())) {
                (true, Some(first)) => picks.push(Pick::Entries(self.latest(&group), self.item_beside(first))),
                (true, None) => picks.extend(self.fitting(&group)?.into_iter().map(|entry| self.alone(entry))),
                (false, _) => {}
            }
        }
        let beside: Vec<*const Item> =
            self.entries.iter().filter_map(|entry| self.item_beside(entry)).map(std::ptr::from_ref).collect();
        let alone = self.items.iter().filter(|item| !beside.contains(&std::ptr::from_ref(*item)));
        picks.extend(alone.filter(|item| fits(&item.written)).map(Pick::Item));
        Ok(picks)
    }

    /// Picks an entry regardless of its platform.
    fn alone<'l>(&'l self, entry: &'l ListEntry) -> Pick<'l> {
        Pick::Entries(vec![entry], self.item_beside(entry))
    }

    /// Returns the entries with one name, except those that a later entry for the same platform replaces, as when a tag
    /// moves.
    fn latest<'l>(&self, group: &[&'l ListEntry]) -> Vec<&'l ListEntry> {
        let replaced = |position: usize, entry: &ListEntry| {
            entry.platform().is_some()
                && group.iter().skip(position + 1).any(|later| later.platform() == entry.platform())
        };
        let mut latest = Vec::new();
        for (position, entry) in group.iter().enumerate() {
            match replaced(position, entry) {
                true => self.say_left_out(entry, "which a later entry replaces"),
                false => latest.push(*entry),
            }
        }
        latest
    }

    /// Returns those of the entries without a name that are not for another platform.
    fn fitting<'l>(&self, group: &[&'l ListEntry]) -> Result<Vec<&'l ListEntry>, ImportError> {
        let wanted = self.context.wanted;
        let fit = |entry: &ListEntry| entry.platform().map_or(Fit::Unknown, |platform| platform.fit(wanted));
        let best = group.iter().filter_map(|entry| match fit(entry) {
            Fit::Yes(distance) => Some(distance),
            _ => None,
        });
        let best = best.min();
        let fits = |entry: &ListEntry| match fit(entry) {
            Fit::Yes(distance) => Some(distance) == best,
            Fit::Unknown => true,
            Fit::No => false,
        };
        let (fitting, others): (Vec<&ListEntry>, Vec<&ListEntry>) = group.iter().partition(|entry| fits(entry));
        if fitting.is_empty() {
            return match group {
                // Use the only image there is; the user is told about its platform.
                [only] => Ok(vec![only]),
                _ => {
                    let offered: Vec<Platform> = group.iter().filter_map(|entry| entry.platform()?.named()).collect();
                    let cause = match offered.is_empty() {
                        true => ImageError::NotAnImage("its index lists no image".to_owned()),
                        false => ImageError::NoSuchPlatform { wanted: wanted.clone(), offered },
                    };
                    Err(ImportError::Image { source_name: self.context.source_name.to_owned(), cause })
                }
            };
        }
        for other in others {
            if let Some(platform) = other.platform().and_then(Described::named) {
                self.say_left_out(other, &format!("for {platform}"));
            }
        }
        Ok(fitting)
    }

    fn say_left_out(&self, entry: &ListEntry, why: &str) {
        let name = entry.written.iter().map(|name| format!("{name} ")).collect::<String>();
        let what = entry.digest.as_deref().unwrap_or("an entry without a digest");
        let line = format!("{}: left out {name}{what}, {why}", self.context.source_name);
        self.context.progress.notice(&line.escape_debug().to_string());
    }

    /// Returns the item of `manifest.json` with the same name as an entry of `index.json`.
    fn item_beside(&self, entry: &ListEntry) -> Option<&Item> {
        let name = naming::reference(entry.written.as_deref()?, self.context.repository)?;
        let is_called = |written: &String| naming::reference(written, self.context.repository).as_ref() == Some(&name);
        self.items.iter().find(|item| item.written.iter().any(is_called))
    }

    fn is_called(&self, written: &[String], wanted: &str) -> bool {
        let parsed = wanted.parse::<Reference>().ok();
        written.iter().any(|name| {
            let reference = naming::reference(name, self.context.repository);
            name == wanted || parsed.as_ref().zip(reference).is_some_and(|(wanted, name)| wanted.is_met_by(&name))
        })
    }

    /// Reads what was chosen. Something that is not an image is left out if there are also images.
    fn read_all(&self, picks: Vec<Pick<'_>>) -> Result<Vec<Found>, ImportError> {
        let (mut images, mut failures) = (Vec::new(), Vec::new());
        for pick in picks {
            let is_item = matches!(pick, Pick::Item(_));
            match self.read_one(&pick) {
                Ok(image) => images.push((is_item, image)),
                Err(error) => failures.push((is_item, error)),
            }
        }
        for (is_item, failure) in failures {
            // Signatures and attestations are stored next to images. And two lists in one archive list the same images,
            // so the one that can be read is enough.
            let is_image = !matches!(failure, ImportError::Image { cause: ImageError::NotAnImage(_), .. });
            if !images.iter().any(|(from_item, _)| !is_image || *from_item != is_item) {
                return Err(failure);
            }
            self.context.progress.notice(&format!("left out: {failure}"));
        }
        Ok(merged(images.into_iter().map(|(_, image)| image).collect()))
    }

    fn read_one(&self, pick: &Pick<'_>) -> Result<Found, ImportError> {
        let Context { files, source_name, wanted, .. } = self.context;
        let item = |item| docker::image(files, source_name, item, wanted).and_then(|image| self.whole(image));
        match pick {
            Pick::Item(only) => item(only),
            Pick::Entries(entries, beside) => {
                let read = self.context.layout().image(entries).and_then(|image| self.whole(image));
                match (read, beside.map(item)) {
                    (Err(failure), Some(Ok(image))) => {
                        self.context.progress.notice(&format!("{failure}: {} is used instead", docker::LIST));
                        Ok(image)
                    }
                    (Ok(mut image), Some(Ok(beside))) if image.config == beside.config => {
                        image.add_names(beside.written);
                        Ok(image)
                    }
                    (read, _) => read,
                }
            }
        }
    }

    /// Returns the image if all of its layers are in the archive or in the store.
    fn whole(&self, image: Found) -> Result<Found, ImportError> {
        let lacks = |layer: &&super::FoundLayer| {
            !self.context.files.has_layer(&layer.path) && !self.context.sink.has_layer(&layer.diff_id)
        };
        match image.layers.iter().find(lacks) {
            Some(layer) => Err(ImportError::Missing {
                source_name: self.context.source_name.to_owned(),
                file: if layer.path.is_empty() { layer.diff_id.to_string() } else { layer.path.clone() },
            }),
            None => Ok(image),
        }
    }

    /// Lists what the archive has, for a message.
    pub(super) fn offered(&self) -> String {
        let entries = self.entries.iter().map(|entry| entry.written.clone().or_else(|| entry.digest.clone()));
        let mut names: Vec<String> = entries.flatten().collect();
        for item in &self.items {
            let name = item.written.first().cloned().or_else(|| item.config().map(|digest| digest.to_string()));
            names.extend(name.filter(|_| self.entries.is_empty() || !item.written.is_empty()));
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names.join(", ").escape_debug().to_string()
    }

    fn no_such_image(&self, wanted: &str, broken: Option<ImportError>) -> ImportError {
        broken.unwrap_or_else(|| ImportError::NoSuchImage {
            source_name: self.context.source_name.to_owned(),
            wanted: wanted.to_owned(),
            there: self.offered(),
        })
    }
}

fn note<T: Default>(failures: &mut Vec<ImportError>, error: ImportError) -> T {
    failures.push(error);
    T::default()
}

/// Groups the entries of a list by name, in the order of first mention; those without a name are one group.
fn by_name(entries: &[ListEntry]) -> Vec<Vec<&ListEntry>> {
    let mut groups: Vec<Vec<&ListEntry>> = Vec::new();
    for entry in entries {
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| first.written == entry.written)) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    groups
}

/// Merges what the two lists of an archive say about the same image.
fn merged(images: Vec<Found>) -> Vec<Found> {
    let mut distinct: Vec<Found> = Vec::new();
    for image in images {
        let same = |other: &&mut Found| {
            other.config == image.config
                && (other.manifest_bytes == image.manifest_bytes || image.manifest_bytes.is_none())
        };
        match distinct.iter_mut().find(same) {
            Some(other) => other.add_names(image.written),
            None => distinct.push(image),
        }
    }
    distinct
}
