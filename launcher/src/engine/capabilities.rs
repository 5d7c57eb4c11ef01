//! What this host and the guest's kernel can do, whatever the engine.

use std::path::Path;

use guest_protocol::Part;

use super::request::{Backend, Choice, RunRequest};
use crate::host::network::NetworkBackend;
use crate::host::probe_cache::ProbeCache;
use crate::host::{self, Tools, Wanted};

/// What this host and the guest's kernel can do. An `Err` says why not, in one line.
#[derive(Clone, Debug)]
pub(crate) struct HostCapabilities {
    /// This user can mount FUSE file systems.
    pub(crate) fuse: Result<(), String>,
    /// A virtiofsd that can serve a share.
    pub(crate) virtiofsd: Result<(), String>,
    /// Guests can mount an EROFS image on a virtio disk.
    pub(crate) image_in_guest: Result<(), String>,
    /// Guests can mount an ext4 file system on a virtio disk.
    pub(crate) disk_in_guest: Result<(), String>,
    /// A passt that starts.
    pub(crate) passt: Result<(), String>,
    /// The same, for an engine whose network card is a vhost-user device.
    pub(crate) passt_by_vhost_user: Result<(), String>,
    /// Guests have a driver for network cards.
    pub(crate) network_in_guest: Result<(), String>,
}

impl HostCapabilities {
    /// Finds out what `request` depends on. Tries nothing else.
    #[must_use]
    pub(crate) fn of(tools: &Tools, request: &RunRequest, cache: &Path) -> Self {
        let fuse = if request.explain || request.backend == Choice::Forced(Backend::Virtiofsd) {
            let mut probes = ProbeCache::of(cache);
            probes
                .recall("fuse", &[Path::new("/dev/fuse")], || host::fuse(false))
                .map_err(|failure| failure.to_string())
        } else {
            Err("not tried".to_owned())
        };
        let in_guest = |parts: &[Part]| {
            let boot = tools.boot.as_ref().map_err(ToString::to_string)?;
            parts.iter().try_for_each(|part| boot.modules.supports(*part))
        };
        Self {
            fuse,
            virtiofsd: tools.virtiofsd.as_ref().map(|_| ()).map_err(ToString::to_string),
            image_in_guest: in_guest(&[Part::Disk, Part::Erofs]),
            disk_in_guest: in_guest(&[Part::Disk, Part::Ext4]),
            passt: tools.passt.as_ref().map(|_| ()).map_err(ToString::to_string),
            passt_by_vhost_user: match &tools.passt {
                Ok(passt) if !passt.has_vhost_user() => {
                    Err("the passt of this host has no --vhost-user; passt of 2025 and later has it".to_owned())
                }
                Ok(_) => Ok(()),
                // Its hint names the network that QEMU has built in.
                Err(failure) => Err(failure.complaint()),
            },
            network_in_guest: in_guest(&[Part::Network]),
        }
    }
}

impl RunRequest {
    /// Returns the programs that it may need. Each one that is looked for costs a process. `kernel` says
    /// whether its guests may need a kernel of their own.
    #[must_use]
    pub(crate) fn wanted(&self, kernel: bool) -> Wanted {
        let by_virtiofsd = matches!(self.backend, Choice::Forced(Backend::Virtiofsd | Backend::Materialize));
        Wanted {
            kernel: kernel || self.explain,
            virtiofsd: self.explain || self.directory_root || by_virtiofsd,
            passt: !matches!(
                self.network,
                Choice::Forced(NetworkBackend::None | NetworkBackend::Slirp | NetworkBackend::Host)
            ),
        }
    }
}
