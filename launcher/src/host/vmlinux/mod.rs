//! The kernel as an ELF file, for a hypervisor that boots nothing else.
//!
//! What a distribution installs is a bzImage: a program that holds the ELF file in a compressed form, and unpacks it when
//! it is booted. Here it is unpacked on the host, once for a kernel, and kept in the cache. Its name there contains a
//! checksum of its content, which is compared when it is first used after the host's start, and after it has changed.

mod compression;
mod image;

use std::fs::{self, File, Permissions};
use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::failure::{About, Failure};
use crate::host::initramfs;
use crate::host::kernel::Kernel;
use crate::host::probe_cache::ProbeCache;

/// It is not secret, and the user whom machines of root run as reads it.
const READABLE: u32 = 0o644;

/// Finds the ELF file of `kernel` in `cache`, or makes it there.
///
/// # Errors
/// The image cannot be read or is damaged, its compression is not known, or the cache cannot be written.
pub(crate) fn of_kernel(kernel: &Kernel, cache: &Path) -> Result<PathBuf, Failure> {
    let prefix = format!("vmlinux-{}-{:016x}-", kernel.release, fingerprint(&kernel.image)?);
    if let Some(found) = find(cache, &prefix) {
        return Ok(found);
    }
    let image = fs::read(&kernel.image).about(kernel.image.display())?;
    let elf = unpack(&image).map_err(|cause| {
        Failure::new(format_args!("kernel {}", kernel.image.display()), cause)
            .with_hint("install the kernel's package again, or name another kernel with --kernel")
    })?;
    fs::create_dir_all(cache).about(cache.display())?;
    let path = cache.join(format!("{prefix}{:032x}", xxh3_128(&elf)));
    let mut file = tempfile::NamedTempFile::new_in(cache).about(cache.display())?;
    file.write_all(&elf).about(path.display())?;
    file.as_file().set_permissions(Permissions::from_mode(READABLE)).about(path.display())?;
    file.persist(&path).about(path.display())?;
    initramfs::forget_others(&path);
    Ok(path)
}

/// Returns the ELF file in a kernel image.
fn unpack(image: &[u8]) -> Result<Vec<u8>, String> {
    let elf = compression::unpack(image::payload(image)?)?;
    image::check_elf(&elf)?;
    Ok(elf)
}

/// Finds a whole file whose name begins with `prefix`, and removes those that are damaged.
fn find(cache: &Path, prefix: &str) -> Option<PathBuf> {
    fs::read_dir(cache).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        let (name, path) = (name.to_str()?, entry.path());
        let checksum = name.strip_prefix(prefix)?;
        // It has tens of megabytes, which every start would read.
        let found = ProbeCache::of(cache).recall(name, &[&path], || {
            let found = checksum_of(&path).about(path.display())?;
            Ok(format!("{found:032x}"))
        });
        if found.is_ok_and(|found| found == checksum) {
            return Some(path);
        }
        tracing::warn!("{} is damaged, and is made again", path.display());
        // Another process may have removed it.
        let _ = fs::remove_file(path);
        None
    })
}

fn checksum_of(path: &Path) -> io::Result<u128> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (Xxh3::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.digest128()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns a hash of the image's path, size and time of change.
fn fingerprint(image: &Path) -> Result<u64, Failure> {
    let file = fs::metadata(image).about(image.display())?;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(image.as_os_str().as_encoded_bytes());
    hasher.write_u64(file.size());
    hasher.write_i64(file.mtime());
    hasher.write_i64(file.mtime_nsec());
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests;
