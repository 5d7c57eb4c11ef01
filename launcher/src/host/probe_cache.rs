//! Remembers the results of probes until the host restarts, so that not every start has to try again.
//!
//! The cache is one JSON file in the cache directory. A result that depends on a program or a file is forgotten when
//! that changes. Failures are not remembered, because the cause may have been fixed since, unless the caller sets a
//! time for them.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ability::current_boot;
use crate::failure::Failure;

/// The probe cache of one directory.
#[derive(Debug)]
pub(crate) struct ProbeCache {
    path: PathBuf,
    known: Known,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    /// `/proc/sys/kernel/random/boot_id` at the time of the probes.
    boot_id: String,
    /// The results, by what was tried and with which files.
    found: BTreeMap<String, Found>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Found {
    value: Value,
    /// When it is forgotten, in seconds since 1970.
    until: Option<u64>,
}

impl ProbeCache {
    /// Reads what is remembered in `cache`, which is nothing if the file is missing, unreadable, or from before the
    /// host's last restart.
    #[must_use]
    pub(crate) fn of(cache: &Path) -> Self {
        let boot_id = current_boot();
        let path = cache.join("found.json");
        let known = fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Known>(&json).ok());
        let known = known.filter(|known| known.boot_id == boot_id && !boot_id.is_empty());
        Self { path, known: known.unwrap_or(Known { boot_id, found: BTreeMap::new() }) }
    }

    /// Returns the remembered result of trying `what` with these files, or tries now.
    ///
    /// # Errors
    /// As `attempt` does.
    pub(crate) fn recall<T: Serialize + DeserializeOwned>(
        &mut self,
        what: &str,
        with: &[&Path],
        attempt: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Some(found) = self.get(what, with) {
            return Ok(found);
        }
        let found = attempt()?;
        self.put(what, with, &found, None);
        Ok(found)
    }

    /// Returns the result of trying `what` with these files, if it is remembered.
    #[must_use]
    pub(crate) fn get<T: DeserializeOwned>(&self, what: &str, with: &[&Path]) -> Option<T> {
        let found = self.known.found.get(&key(what, with))?;
        if found.until.is_some_and(|until| until <= now()) {
            return None;
        }
        T::deserialize(&found.value).ok()
    }

    /// Remembers the result of trying `what` with these files, for `keep` or until the host restarts. A cache that
    /// cannot be written only costs time.
    pub(crate) fn put(&mut self, what: &str, with: &[&Path], value: &impl Serialize, keep: Option<Duration>) {
        let Ok(value) = serde_json::to_value(value) else { return };
        let until = keep.map(|keep| now().saturating_add(keep.as_secs()));
        self.known.found.retain(|known, _| known.rsplit_once('-').is_none_or(|(known, _)| known != what));
        self.known.found.insert(key(what, with), Found { value, until });
        self.write();
    }

    /// Writes the file, and renames it into place.
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

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Returns a key of what was tried, by which user, and with which files in their present state.
fn key(what: &str, with: &[&Path]) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    rustix::process::geteuid().as_raw().hash(&mut hasher);
    for path in with {
        path.hash(&mut hasher);
        let state = fs::metadata(path).map(|file| (file.ino(), file.size(), file.mtime(), file.mtime_nsec()));
        state.ok().hash(&mut hasher);
    }
    format!("{what}-{:016x}", hasher.finish())
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
    fn what_is_remembered_for_a_time_is_forgotten_after_it() {
        let cache = tempfile::tempdir().unwrap();
        let mut probes = ProbeCache::of(cache.path());
        probes.put("x", &[], &"slow", Some(Duration::from_secs(3600)));
        assert_eq!(ProbeCache::of(cache.path()).get("x", &[]), Some("slow".to_owned()));
        probes.put("x", &[], &"slow", Some(Duration::ZERO));
        assert_eq!(ProbeCache::of(cache.path()).get::<String>("x", &[]), None);
    }

    #[test]
    fn what_was_found_before_the_host_restarted_is_forgotten() {
        let cache = tempfile::tempdir().unwrap();
        ProbeCache::of(cache.path()).recall("x", &[], || Ok(1)).unwrap();
        let path = cache.path().join("found.json");
        let text = fs::read_to_string(&path).unwrap();
        let boot_id = ProbeCache::of(cache.path()).known.boot_id;
        fs::write(&path, text.replace(&boot_id, "another")).unwrap();
        assert_eq!(ProbeCache::of(cache.path()).recall("x", &[], || Ok(2)), Ok(2));
    }
}
