//! The programs and files of the host that a start uses.

use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::host::initramfs;
use crate::host::kernel::{Kernel, Modules};
use crate::host::passt::Passt;
use crate::host::probe_cache::ProbeCache;
use crate::host::virtiofsd::Virtiofsd;

/// What guests boot.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    pub(crate) kernel: Kernel,
    /// The initramfs made for it.
    pub(crate) initramfs: PathBuf,
    pub(crate) modules: Modules,
}

impl Boot {
    /// Finds the kernel, and makes the initramfs in `cache` if it is not there yet.
    ///
    /// # Errors
    /// Names what is missing.
    pub(crate) fn find(kernel: Option<&Path>, cache: &Path) -> Result<Self, Failure> {
        let kernel = Kernel::find(kernel)?;
        let modules = kernel.needed_modules()?;
        let initramfs = initramfs::for_kernel(&kernel, &modules, cache)?;
        Ok(Self { kernel, initramfs, modules })
    }
}

/// The programs and files that a start uses, besides those of its engine.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// What the guest boots, or why it cannot.
    pub(crate) boot: Result<Boot, Failure>,
    /// virtiofsd, or why it cannot be used.
    pub(crate) virtiofsd: Result<Virtiofsd, Failure>,
    /// passt, or why it cannot be used.
    pub(crate) passt: Result<Passt, Failure>,
}

/// The programs that a start may need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// A guest boots a kernel of its own.
    pub(crate) kernel: bool,
    pub(crate) virtiofsd: bool,
    pub(crate) passt: bool,
}

impl Tools {
    /// Finds the programs that are wanted.
    ///
    /// # Errors
    /// A kernel that was named cannot be used.
    pub(crate) fn find(kernel: Option<&Path>, cache: &Path, wanted: Wanted) -> Result<Self, Failure> {
        let boot = if wanted.kernel { Boot::find(kernel, cache) } else { Err(Failure::new("kernel", "not tried")) };
        if kernel.is_some() && wanted.kernel {
            boot.as_ref().map_err(Clone::clone)?;
        }
        let mut probes = ProbeCache::of(cache);
        let not_tried = |program| Failure::new(program, "not tried");
        let virtiofsd = if wanted.virtiofsd { Virtiofsd::cached(&mut probes) } else { Err(not_tried("virtiofsd")) };
        let passt = if wanted.passt { Passt::cached(&mut probes) } else { Err(not_tried("passt")) };
        Ok(Self { boot, virtiofsd, passt })
    }
}
