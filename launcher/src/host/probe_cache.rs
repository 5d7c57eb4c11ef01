//! What trying has shown, remembered until the host is started anew, so that a start does not pay for it.
//!
//! One JSON file in the cache directory. Only successes are remembered: what failed may have been mended since. What was
//! found with a program or a file is forgotten when that changes.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;

/// The memory of one cache directory.
#[derive(Debug)]
pub(crate) struct ProbeCache {
    path: PathBuf,
    known: Known,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    /// `/proc/sys/kernel/random/boot_id` of when it was found.
    boot_id: String,
    /// What was found, by what was tried and with what.
    found: BTreeMap<String, Value>,
}

impl ProbeCache {
    /// Reads what is remembered in `cache`; nothing where there is nothing or it is of an earlier start of the host.
    #[must_use]
    pub(crate) fn of(cache: &Path) -> Self {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let path = cache.join("found.json");
        let known = fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Known>(&json).ok());
        let known = known.filter(|known| known.boot_id == boot_id && !boot_id.is_empty());
        Self { path, known: known.unwrap_or(Known { boot_id, found: BTreeMap::new() }) }
    }

    /// What trying `what` with these files has shown, or shows now.
    ///
    /// # Errors
    /// As `attempt` does.
    pub(crate) fn recall<T: Serialize + DeserializeOwned>(
        &mut self,
        what: &str,
        with: &[&Path],
        attempt: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let key = format!("{what}-{:016x}", fingerprint(with));
        if let Some(found) = self.known.found.get(&key).and_then(|found| T::deserialize(found).ok()) {
            return Ok(found);
        }
        let found = attempt()?;
        if let Ok(value) = serde_json::to_value(&found) {
            self.known.found.retain(|known, _| known.rsplit_once('-').is_none_or(|(known, _)| known != what));
            self.known.found.insert(key, value);
            self.write();
        }
        Ok(found)
    }

    /// Written by a rename. A memory that cannot be kept only costs time.
    fn write(&self) {
        let Some(directory) = self.path.parent() else { return };
        let written = fs::create_dir_all(directory).and_then(|()| tempfile::NamedTempFile::new_in(directory)).and_then(
            |mut file| {
                serde_json::to_writer(&mut file, &self.known)?;
                Ok(file.persist(&self.path)?)
            },
        );
        if let Err(error) = written {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}

/// Who tries, and the files that it is tried with, as they are now.
fn fingerprint(with: &[&Path]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    rustix::process::geteuid().as_raw().hash(&mut hasher);
    for path in with {
        path.hash(&mut hasher);
        let state = fs::metadata(path).map(|file| (file.ino(), file.size(), file.mtime(), file.mtime_nsec()));
        state.ok().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_succeeded_is_tried_once_until_a_file_changes() {
        let cache = tempfile::tempdir().unwrap();
        let tool = cache.path().join("tool");
        fs::write(&tool, "1").unwrap();
        let tries = std::cell::Cell::new(0);
        let attempt = || {
            tries.set(tries.get() + 1);
            Ok(tries.get())
        };
        assert_eq!(ProbeCache::of(cache.path()).recall("x", &[&tool], attempt), Ok(1));
        assert_eq!(ProbeCache::of(cache.path()).recall("x", &[&tool], attempt), Ok(1), "another process remembers");
        fs::write(&tool, "12").unwrap();
        assert_eq!(ProbeCache::of(cache.path()).recall("x", &[&tool], attempt), Ok(2));
        let failed: Result<u32, _> = ProbeCache::of(cache.path()).recall("y", &[], || Err(Failure::new("y", "no")));
        assert!(failed.is_err());
        assert_eq!(ProbeCache::of(cache.path()).recall("y", &[], attempt), Ok(3), "a failure is not remembered");
    }

    #[test]
    fn a_memory_of_an_earlier_start_of_the_host_is_none() {
        let cache = tempfile::tempdir().unwrap();
        ProbeCache::of(cache.path()).recall("x", &[], || Ok(1)).unwrap();
        let path = cache.path().join("found.json");
        let text = fs::read_to_string(&path).unwrap();
        let boot_id = ProbeCache::of(cache.path()).known.boot_id;
        fs::write(&path, text.replace(&boot_id, "another")).unwrap();
        assert_eq!(ProbeCache::of(cache.path()).recall("x", &[], || Ok(2)), Ok(2));
    }
}
