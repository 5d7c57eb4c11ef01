//! The guest's kernel: which one, and which of its modules a guest needs.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use guest_protocol::Part;

use crate::failure::{About, Failure};

/// Where kernels are looked for.
const BOOT: &str = "/boot";
/// Where modules are looked for, one directory for each release.
const MODULES: &str = "/lib/modules";
/// The hint for when either is missing.
const REMEDY: &str =
    "install a kernel for guests (Debian: apt-get install linux-image-cloud-amd64) or name one with --kernel";

/// The drivers that a guest needs, by their module names.
const NEEDED: [&str; 6] = ["virtio_pci", "virtio_mmio", "virtio_console", "fuse", "virtiofs", "overlay"];
/// Drivers without which a guest still boots on one of the machine types.
const OPTIONAL: [&str; 2] = ["virtio_pci", "virtio_mmio"];

/// Returns the drivers that a part needs.
const fn needed_by(part: Part) -> &'static [&'static str] {
    match part {
        Part::Disk => &["virtio_blk"],
        Part::Erofs => &["erofs"],
        Part::Ext4 => &["ext4"],
        Part::Network => &["virtio_net"],
        Part::Socket => &["vmw_vsock_virtio_transport"],
    }
}

/// The modules that guests may need, each after those it depends on. What is built into the kernel is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Modules {
    /// Those that every guest loads.
    pub(crate) always: Vec<PathBuf>,
    /// For each part, the further modules that it needs, or the driver that the kernel lacks for it.
    pub(crate) parts: Vec<(Part, Result<Vec<PathBuf>, &'static str>)>,
}

impl Modules {
    /// Checks whether guests can have a part.
    ///
    /// # Errors
    /// Names the driver that is missing.
    pub(crate) fn supports(&self, part: Part) -> Result<(), String> {
        match self.parts.iter().find(|(known, _)| *known == part) {
            Some((_, Err(missing))) => Err(format!("the guest kernel has no driver {missing}")),
            _ => Ok(()),
        }
    }

    /// Returns every file.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.always.iter().chain(self.parts.iter().filter_map(|(_, files)| files.as_ref().ok()).flatten())
    }
}

/// A kernel image and the release that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// The image, as a boot loader takes it.
    pub(crate) image: PathBuf,
    /// What `uname -r` will say.
    pub(crate) release: String,
    /// The directory of its modules.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// Finds the kernel at `image`, or the newest under `/boot` whose modules exist.
    ///
    /// # Errors
    /// Names the image or the module directory that is missing, and the package that contains it.
    pub(crate) fn find(image: Option<&Path>) -> Result<Self, Failure> {
        match image {
            Some(image) => Self::at(image, Path::new(MODULES)),
            None => Self::newest(Path::new(BOOT), Path::new(MODULES)),
        }
    }

    fn at(image: &Path, modules: &Path) -> Result<Self, Failure> {
        let mut file = File::open(image).map_err(|error| {
            let failure = Failure::new(format_args!("kernel {}", image.display()), &error);
            match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    failure.with_hint(format_args!("make it readable: sudo chmod a+r {}", image.display()))
                }
                _ => failure.with_hint(REMEDY),
            }
        })?;
        let release = release_of(&mut file).about(format_args!("kernel {}", image.display()))?;
        let modules = modules.join(&release);
        if !modules.join("modules.dep").is_file() {
            return Err(Failure::new(
                format_args!("{}/modules.dep", modules.display()),
                format_args!("the modules of kernel {} are missing", image.display()),
            )
            .with_hint("install the package of that kernel, or run: depmod RELEASE"));
        }
        Ok(Self { image: image.to_owned(), release, modules })
    }

    fn newest(boot: &Path, modules: &Path) -> Result<Self, Failure> {
        let mut images: Vec<PathBuf> = fs::read_dir(boot)
            .about(boot.display())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
            .collect();
        images.sort_by(|a, b| compare_releases(&b.to_string_lossy(), &a.to_string_lossy()));
        let mut first_failure = None;
        for image in images {
            match Self::at(&image, modules) {
                Ok(kernel) => return Ok(kernel),
                Err(failure) => {
                    first_failure.get_or_insert(failure);
                }
            }
        }
        Err(first_failure.unwrap_or_else(|| {
            Failure::new(format_args!("{}/vmlinuz-*", boot.display()), "there is no guest kernel").with_hint(REMEDY)
        }))
    }

    /// The modules that guests may need.
    ///
    /// # Errors
    /// Names a driver that every guest needs and that the kernel has neither as a module nor built in.
    pub(crate) fn needed_modules(&self) -> Result<Modules, Failure> {
        let read = |name: &str| {
            let path = self.modules.join(name);
            fs::read_to_string(&path).about(path.display())
        };
        let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
        let always = load_order(&NEEDED, &dependencies, &builtin).map_err(|missing| {
            Failure::new(format_args!("kernel {}", self.release), format_args!("it has no driver {missing}"))
                .with_hint(REMEDY)
        })?;
        let absolute = |paths: Vec<String>| paths.into_iter().map(|path| self.modules.join(path)).collect();
        let parts = Part::ALL.map(|part| {
            let paths = load_order(needed_by(part), &dependencies, &builtin);
            (part, paths.map(|paths| absolute(paths.into_iter().filter(|path| !always.contains(path)).collect())))
        });
        Ok(Modules { parts: parts.into(), always: absolute(always) })
    }
}

/// Reads the release from a bzImage: the offset of the version text is at 0x20e of the set-up header,
/// counted from 0x200 (`Documentation/arch/x86/boot.rst`, "kernel_version").
fn release_of(file: &mut (impl Read + Seek)) -> Result<String, String> {
    let mut header = [0; 0x210];
    let read = file.read_exact(&mut header);
    if read.is_err() || &header[0x202..0x206] != b"HdrS" {
        return Err("it is not a Linux bzImage".to_owned());
    }
    let offset = u64::from(u16::from_le_bytes([header[0x20e], header[0x20f]])) + 0x200;
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(offset)).map_err(|error| error.to_string())?;
    file.take(256).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let end = text.iter().position(|&byte| byte == b' ' || byte == 0).unwrap_or(0);
    match std::str::from_utf8(&text[..end]) {
        Ok(release) if !release.is_empty() && !release.contains('/') => Ok(release.to_owned()),
        _ => Err("it does not name its release".to_owned()),
    }
}

/// Compares as `sort -V` does: runs of digits by value, everything else by bytes.
fn compare_releases(a: &str, b: &str) -> Ordering {
    let key = |text: &str| {
        let mut parts: Vec<(u64, String)> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (word, tail) = tail.split_at(letters);
            parts.push((number.parse().unwrap_or(0), word.to_owned()));
            rest = tail;
        }
        parts
    };
    key(a).cmp(&key(b))
}

/// Returns the name of a module from its path: `kernel/fs/fuse/fuse.ko.xz` is `fuse`. `-` and `_` are the same.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Returns the needed modules and what they depend on, in the order in which they can be loaded, as paths relative to
/// the module directory. Fails with the name of a module that is missing.
fn load_order(needed: &[&'static str], dependencies: &str, builtin: &str) -> Result<Vec<String>, &'static str> {
    let builtin: HashSet<String> = builtin.lines().map(module_name).collect();
    let mut order: Vec<String> = Vec::new();
    for &name in needed {
        let line =
            dependencies.lines().filter_map(|line| line.split_once(':')).find(|(path, _)| module_name(path) == name);
        match line {
            // modules.dep(5) lists dependencies so that the last must be loaded first.
            Some((path, needs)) => {
                for module in needs.split_whitespace().rev().chain([path]) {
                    if !order.iter().any(|have| have == module) {
                        order.push(module.to_owned());
                    }
                }
            }
            None if builtin.contains(name) || OPTIONAL.contains(&name) => {}
            None => return Err(name),
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/char/virtio_console.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/fs/fuse/virtiofs.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko kernel/fs/fuse/fuse.ko
kernel/fs/fuse/fuse.ko:
";

    #[test]
    fn every_module_comes_once_and_after_what_it_depends_on() {
        let order = load_order(&NEEDED, DEPENDENCIES, "kernel/fs/overlayfs/overlay.ko\n").unwrap();
        let names: Vec<_> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_pci", "virtio_console", "fuse", "virtiofs"]);
    }

    #[test]
    fn a_driver_that_is_neither_module_nor_built_in_is_named() {
        assert_eq!(load_order(&NEEDED, DEPENDENCIES, ""), Err("overlay"));
    }

    #[test]
    fn releases_are_compared_by_number_and_not_by_letter() {
        assert_eq!(compare_releases("vmlinuz-6.12.1", "vmlinuz-6.9.30"), Ordering::Greater);
        assert_eq!(compare_releases("vmlinuz-6.1.0-9", "vmlinuz-6.1.0-56"), Ordering::Less);
        assert_eq!(compare_releases("vmlinuz-6.1", "vmlinuz-6.1"), Ordering::Equal);
    }

    #[test]
    fn the_release_is_read_from_the_boot_header() {
        let mut image = vec![0; 0x600];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x200_u16.to_le_bytes());
        image[0x400..0x40b].copy_from_slice(b"6.1.0-5 (x)");
        assert_eq!(release_of(&mut std::io::Cursor::new(image)), Ok("6.1.0-5".to_owned()));
        let other = std::io::Cursor::new(vec![0x7f; 0x600]);
        assert_eq!(release_of(&mut { other }), Err("it is not a Linux bzImage".to_owned()));
    }

    #[test]
    fn a_kernel_without_its_modules_and_none_at_all_name_the_remedy() {
        let empty = tempfile::tempdir().unwrap();
        let failure = Kernel::newest(empty.path(), empty.path()).unwrap_err().to_string();
        assert!(
            failure.contains("there is no guest kernel") && failure.contains("linux-image-cloud-amd64"),
            "{failure}"
        );
        let failure = Kernel::at(&empty.path().join("vmlinuz"), empty.path()).unwrap_err().to_string();
        assert!(failure.contains("vmlinuz: No such file") && failure.contains("--kernel"), "{failure}");
    }
}
