//! Named volumes: directories of this user that machines share by a name, as in docker.
//!
//! `volumes/NAME` has the directory `data`, which machines see, and `volume.json`. A machine that runs holds a shared lock
//! on that file, so that the volume is not removed under it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::directory;
use super::home::{self, make_private};
use crate::clock::now;
use crate::engine;
use crate::failure::{About, Failure};
use crate::host::confine::{Account, is_root_of_the_host};
use crate::host::json_file;
use crate::spec::Spec;

const FILE: &str = "volume.json";
const DATA: &str = "data";

/// A named volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) name: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(skip)]
    directory: PathBuf,
}

/// Returns whether `name` can name a volume: letters, digits, `-`, `_` and `.`, the first a letter or digit.
#[must_use]
pub(crate) fn is_valid_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=255).contains(&name.len()) && name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

impl Volume {
    /// Returns the volume called `name`, if it exists.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn find(name: &str) -> Result<Option<Self>, Failure> {
        let directory = home::volumes()?.join(name);
        if !is_valid_name(name) || !directory.join(FILE).exists() {
            return Ok(None);
        }
        json_file::read(&directory.join(FILE)).map(|volume| Some(Self { directory, ..volume }))
    }

    /// Returns the volume called `name`, and creates it if it does not exist.
    ///
    /// # Errors
    /// It cannot be created.
    pub(crate) fn find_or_create(name: &str, labels: BTreeMap<String, String>) -> Result<Self, Failure> {
        if let Some(volume) = Self::find(name)? {
            return Ok(volume);
        }
        if !is_valid_name(name) {
            let cause = "a volume's name has letters, digits, \"-\", \"_\" and \".\", the first a letter or digit";
            return Err(Failure::new(format_args!("volume {name}"), cause));
        }
        let directory = home::volumes()?.join(name);
        make_directory(&directory)?;
        match fs::create_dir(directory.join(DATA)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).about(directory.display()),
            _ => {}
        }
        let volume = Self { name: name.to_owned(), created: now(), labels, directory };
        json_file::write(&volume.directory.join(FILE), &volume)?;
        Ok(volume)
    }

    /// Returns all volumes in the order of their names.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) fn all() -> Result<Vec<Self>, Failure> {
        let directory = home::volumes()?;
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.about(directory.display())?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut volumes = names.filter_map(|name| Self::find(&name).transpose()).collect::<Result<Vec<_>, _>>()?;
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// Returns the directory that machines see.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join(DATA)
    }

    /// Returns the names of the machines that were created with the volume and still exist.
    ///
    /// # Errors
    /// The machines cannot be read.
    pub(crate) fn users(&self) -> Result<Vec<String>, Failure> {
        let data = self.data();
        let mut users = Vec::new();
        for record in directory::all()? {
            let spec = directory::existing(&record.name).and_then(|directory| Spec::read(&directory));
            if spec.is_ok_and(|spec| spec.shares.iter().any(|share| share.host == data)) {
                users.push(record.name);
            }
        }
        Ok(users)
    }

    /// Removes it with everything in it.
    ///
    /// # Errors
    /// A machine uses it, or it cannot be removed.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        let about = || format!("volume {}", self.name);
        let users = self.users()?;
        if !users.is_empty() {
            let remedy = format!("remove them first: lamina rm {}", users.join(" "));
            return Err(Failure::new(about(), format_args!("machines use it: {}", users.join(", "))).with_hint(remedy));
        }
        let file = File::open(self.directory.join(FILE)).about(about())?;
        if file.try_lock().is_err() {
            return Err(Failure::new(about(), "a machine that runs uses it").with_hint("stop the machine first"));
        }
        engine::remove_tree(&self.data())?;
        fs::remove_dir_all(&self.directory).about(about())
    }
}

/// Makes the directory of a volume. That of an ordinary user is closed to others. That of root lies where the user as whom
/// root's machines run has a way to the data.
fn make_directory(directory: &Path) -> Result<(), Failure> {
    if !is_root_of_the_host() {
        return make_private(directory, true);
    }
    match DirBuilder::new().mode(0o711).recursive(true).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).about(directory.display()),
        _ => Ok(()),
    }
}

/// Returns whether this is the data directory of a named volume.
pub(crate) fn is_volume(data: &Path) -> bool {
    directory_of(data).is_some()
}

fn directory_of(data: &Path) -> Option<&Path> {
    let directory = data.parent().filter(|_| data.ends_with(DATA))?;
    (directory.parent() == Some(home::volumes().ok()?.as_path())).then_some(directory)
}

/// Keeps the volume with this data directory, if it is one, for as long as the result exists. A volume of root's belongs to
/// the user as whom its machines run.
///
/// # Errors
/// The volume is being removed.
pub(crate) fn hold(data: &Path, account: Option<&Account>) -> Result<Option<File>, Failure> {
    let Some(directory) = directory_of(data) else { return Ok(None) };
    let about = || format!("volume {}", directory.file_name().unwrap_or_default().display());
    let file = File::open(directory.join(FILE)).about(about())?;
    if file.try_lock_shared().is_err() {
        return Err(Failure::new(about(), "it is being removed"));
    }
    if let Some(account) = account {
        chown(data, Some(account.uid), Some(account.gid)).about(about())?;
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_volumes_are_those_of_docker() {
        for good in ["a", "db", "a1", "web-data_2.old"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "-a", ".a", "a b"] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }
}
