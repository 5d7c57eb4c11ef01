//! The second oracle: what `umoci unpack` makes of the same layout.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use layer_store::Kind;

use super::dump::TreeDump;
use super::host_tree::HostTree;
use super::layout::{TAG, write_layout};
use super::paths::{Components, image_path, normalise};
use super::scratch;
use super::stack::{Mtime, Node, Stack};
use super::unpack::can_be_set;

/// Returns what `umoci unpack` makes of the stack.
///
/// # Errors
/// If `umoci` is not there, or fails.
pub fn unpacked_by_umoci(stack: &Stack) -> Result<TreeDump> {
    let scratch = scratch()?;
    let (layout, bundle) = (scratch.path().join("layout"), scratch.path().join("bundle"));
    write_layout(stack, &layout)?;
    let mut command = Command::new("umoci");
    command.arg("unpack");
    if !is_root() {
        command.arg("--rootless");
    }
    command.arg("--image").arg(format!("{}:{TAG}", layout.display())).arg(&bundle);
    let output = command.output().context("`umoci` is needed (Debian package umoci)")?;
    ensure!(output.status.success(), "umoci: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(HostTree::open(&bundle.join("rootfs"))?.dump()?)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the part of a tree that can be compared with umoci's: not the link counts of directories (those are the
/// host's), not the times of directories that no layer has an entry for (umoci leaves the time of unpacking), and
/// without root no owners, devices and privileged attributes.
#[must_use]
pub fn comparable(stack: &Stack, dump: TreeDump) -> TreeDump {
    let with_entry: BTreeSet<Vec<u8>> = stack
        .layers
        .iter()
        .flat_map(|layer| &layer.entries)
        .filter(|entry| entry.node == Node::Directory)
        .filter_map(|entry| normalise(&entry.path).ok())
        .map(|path: Components| image_path(&path))
        .collect();
    let own_group = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    dump.map(|path, line| {
        if line.kind == Kind::Directory {
            line.nlink = 0;
            if !with_entry.contains(path) {
                line.mtime = Mtime::default();
            }
        }
        line.xattrs.retain(|name, _| can_be_set(name, line.kind, is_root()));
        if !is_root() {
            (line.uid, line.gid) = own_group;
            if matches!(line.kind, Kind::CharDevice | Kind::BlockDevice) {
                (line.kind, line.rdev) = (Kind::Regular, (0, 0));
                line.content = Some(super::overlayfs::empty_content());
            }
        }
    })
}
