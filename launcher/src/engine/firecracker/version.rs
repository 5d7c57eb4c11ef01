//! Which versions of Firecracker can be used.

use std::path::Path;

use crate::failure::Failure;
use crate::host;
use crate::host::probe_cache::ProbeCache;

/// Returns how to get one; `what` is the object of the sentence.
pub(super) fn how_to_install(what: &str) -> String {
    format!("install {what} from https://github.com/firecracker-microvm/firecracker/releases, or use --engine qemu")
}

/// The first version that writes a guest's console to a pipe (`PUT /serial`).
const OLDEST: (u32, u32) = (1, 14);

/// Checks that a program is a Firecracker that is new enough. What it says is remembered in `cache`.
///
/// # Errors
/// It is not.
pub(super) fn check(program: &Path, cache: &Path) -> Result<(), Failure> {
    let text = ProbeCache::of(cache).recall("firecracker version", &[program], || host::version(program));
    let text = text.map_err(|failure| failure.with_hint(how_to_install("one")))?;
    judge(&text).map_err(|cause| Failure::new(program.display(), cause).with_hint(how_to_install("a newer one")))
}

/// Judges what `--version` prints: `Firecracker v1.16.1`, or `... v1.17.0-dev`.
fn judge(text: &str) -> Result<(), String> {
    let version = text.strip_prefix("Firecracker v").and_then(|version| {
        let mut parts = version.split('.').map(|part| part.parse().ok());
        Some((parts.next()??, parts.next()??))
    });
    let (major, minor) = OLDEST;
    match version {
        Some(found) if found >= OLDEST => Ok(()),
        Some((old, older)) => Err(format!("version {old}.{older} is too old: lamina needs {major}.{minor} or later")),
        None => Err(format!("it does not say that it is Firecracker, but {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_program_prints_them_and_old_ones_refused() {
        for good in ["Firecracker v1.14.0", "Firecracker v1.16.1", "Firecracker v1.17.0-dev", "Firecracker v2.0.0"] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
        for old in ["Firecracker v1.13.1", "Firecracker v1.9.0", "Firecracker v0.25.2"] {
            let cause = judge(old).unwrap_err();
            assert!(cause.contains("is too old: lamina needs 1.14 or later"), "{cause}");
        }
        for other in ["", "firecracker 1.16", "Firecracker vX.Y", "QEMU emulator version 7.2.22"] {
            assert!(judge(other).unwrap_err().contains("does not say"), "{other}");
        }
    }
}
