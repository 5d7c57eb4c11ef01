//! The initramfs of a guest: our init, the modules that one kernel needs, and nothing else.
//!
//! It is not compressed, because decompression costs an emulated guest more than the larger file costs in the host's
//! page cache.

use std::fs::{self, Permissions};
use std::hash::Hasher;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{About, Failure};
use crate::host::kernel::{Kernel, Modules};

/// The guest's first process, as `build.rs` made it, compressed by xz. It is unpacked once for each cache.
const COMPRESSED_INIT: &[u8] = include_bytes!(env!("LAMINA_GUEST_INIT"));

/// Its mode: it is not secret, and the user whom machines of root run as reads it.
const READABLE: u32 = 0o644;

/// Finds the initramfs for `kernel` with `modules` in `cache`, or makes it there.
///
/// It is named after the kernel's release and a hash of its content, and renamed into place. If two starts create it at
/// the same time, each of the two files is complete.
///
/// # Errors
/// Names the module that cannot be read or the file that cannot be written.
pub(crate) fn for_kernel(kernel: &Kernel, modules: &Modules, cache: &Path) -> Result<PathBuf, Failure> {
    let path = cache.join(format!("initramfs-{}-{:016x}.cpio", kernel.release, fingerprint(modules)?));
    if path.is_file() {
        // Earlier versions made it readable for its owner only.
        let _ = fs::set_permissions(&path, Permissions::from_mode(READABLE));
        return Ok(path);
    }
    fs::create_dir_all(cache).about(cache.display())?;
    let archive = assemble(modules)?;
    let mut file = tempfile::NamedTempFile::new_in(cache).about(cache.display())?;
    file.write_all(&archive).about(path.display())?;
    file.as_file().set_permissions(Permissions::from_mode(READABLE)).about(path.display())?;
    file.persist(&path).about(path.display())?;
    forget_others(&path);
    Ok(path)
}

/// Finds init itself as a program in `cache`, or makes it there. A container starts it without an initramfs.
///
/// # Errors
/// Names the file that cannot be written.
pub(crate) fn init(cache: &Path) -> Result<PathBuf, Failure> {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(COMPRESSED_INIT);
    let path = cache.join(format!("init-{:016x}", hasher.finish()));
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(cache).about(cache.display())?;
    let mut file = tempfile::NamedTempFile::new_in(cache).about(cache.display())?;
    file.write_all(&unpacked()?).about(path.display())?;
    fs::set_permissions(file.path(), PermissionsExt::from_mode(0o555)).about(path.display())?;
    file.persist(&path).about(path.display())?;
    forget_others(&path);
    Ok(path)
}

/// Returns init's program.
fn unpacked() -> Result<Vec<u8>, Failure> {
    let mut program = Vec::new();
    lzma_rust2::XzReader::new(COMPRESSED_INIT, false)
        .read_to_end(&mut program)
        .about("the guest's init in this program")?;
    Ok(program)
}

/// How long what was made of another kernel or build is kept. A guest that was started from it has read it long before.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Removes old files of the same kind, of other kernels and of other builds of this program.
pub(super) fn forget_others(current: &Path) {
    for path in current.parent().into_iter().flat_map(fs::read_dir).flatten().flatten().map(|entry| entry.path()) {
        let kind = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.split_once('-').map(|(kind, _)| kind.to_owned())
        };
        let ours = kind(current).is_some() && kind(&path) == kind(current);
        let age = fs::metadata(&path).and_then(|file| file.modified()).map(|made| made.elapsed());
        if ours && path != current && matches!(age, Ok(Ok(age)) if age > KEPT) {
            // Another process may be doing the same.
            let _ = fs::remove_file(path);
        }
    }
}

/// Returns a hash of the init and of each module's path, size and modification time.
fn fingerprint(modules: &Modules) -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(COMPRESSED_INIT);
    for module in modules.files() {
        let file = fs::metadata(module).about(module.display())?;
        hasher.write(module.as_os_str().as_encoded_bytes());
        hasher.write_u64(file.size());
        hasher.write_i64(file.mtime());
        hasher.write_i64(file.mtime_nsec());
    }
    Ok(hasher.finish())
}

fn assemble(modules: &Modules) -> Result<Vec<u8>, Failure> {
    let mut archive = Cpio::default();
    // The kernel opens /dev/console for init, and Rust's runtime needs /dev/null. Both happen before devtmpfs is
    // mounted.
    archive.directory("dev");
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.file("init", 0o755, &unpacked()?);
    let root = guest_protocol::MODULES.trim_start_matches('/');
    archive.modules(root, &modules.always)?;
    for (part, files) in &modules.parts {
        archive.modules(&format!("{root}/{}", part.name()), files.as_deref().unwrap_or_default())?;
    }
    Ok(archive.finish())
}

/// A writer of the "newc" format of cpio (`Documentation/driver-api/early-userspace/buffer-format.rst`):
/// for each entry a header of 110 ASCII bytes, the name with its NUL, and the content, each padded to 4.
#[derive(Debug, Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, (0, 0), &[]);
    }

    /// A directory of modules, numbered in the order in which they are loaded.
    fn modules(&mut self, directory: &str, files: &[PathBuf]) -> Result<(), Failure> {
        self.directory(directory);
        for (position, module) in files.iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            let content = fs::read(module).about(module.display())?;
            self.file(&format!("{directory}/{position:02}-{name}"), 0o644, &content);
        }
        Ok(())
    }

    fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, 0o020_600, (major, minor), &[]);
    }

    fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | permissions, (0, 0), content);
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(content.len()).unwrap_or(u32::MAX),
            0,
            0,
            device.0,
            device.1,
            u32::try_from(name.len() + 1).unwrap_or(u32::MAX),
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").into_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses cpio(1) as an independent reader of the archive.
    #[test]
    fn cpio_lists_what_was_written() {
        use std::process::{Command, Stdio};
        let mut archive = Cpio::default();
        archive.directory("dev");
        archive.device("dev/null", 1, 3);
        archive.file("init", 0o755, b"12345");
        archive.file("odd", 0o644, b"");
        let mut child = Command::new("cpio")
            .args(["-itv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio(1) is missing: apt-get install cpio");
        child.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let columns: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        let seen: Vec<(&str, &str)> = columns.iter().map(|line| (line[0], line[line.len() - 1])).collect();
        assert_eq!(
            seen,
            [("drwxr-xr-x", "dev"), ("crw-------", "dev/null"), ("-rwxr-xr-x", "init"), ("-rw-r--r--", "odd")]
        );
        assert!(listing.contains("1,   3") && columns[2][4] == "5", "{listing}");
    }

    #[test]
    fn the_init_is_a_static_program() {
        let init = unpacked().unwrap();
        assert_eq!(&init[..4], b"\x7fELF");
        let interpreter = b"/lib64/ld-linux-x86-64.so.2";
        assert!(!init.windows(interpreter.len()).any(|window| window == interpreter), "init needs a dynamic linker");
    }

    #[test]
    fn an_initramfs_is_made_once_for_each_kernel() {
        let cache = tempfile::tempdir().unwrap();
        let kernel = Kernel::find(None).expect("a guest kernel: apt-get install linux-image-cloud-amd64");
        let modules = kernel.needed_modules().unwrap();
        let first = for_kernel(&kernel, &modules, cache.path()).unwrap();
        fs::write(&first, b"kept").unwrap();
        assert_eq!(for_kernel(&kernel, &modules, cache.path()).unwrap(), first);
        assert_eq!(fs::read(&first).unwrap(), b"kept");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
    }
}
