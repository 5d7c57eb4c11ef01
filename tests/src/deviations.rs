//! Where a tree that Lamina shows may differ from that of `umoci unpack`, each with the reason. This is the only list.

use crate::tree::Deviation;

/// What is excused when a mounted tree is compared with `umoci unpack`.
pub const MOUNTED: &[Deviation] = &[];

/// What is excused when the tree of a running guest is compared with `umoci unpack`.
pub const IN_GUEST: &[Deviation] = &[
    Deviation {
        reason: "the guest mounts /dev, /proc, /sys and the shares over directories of the image",
        applies: |_, _, _, found| found.get("type").is_some_and(|kind| kind == "mount"),
    },
    Deviation {
        reason: "that mount hides what the image has below /dev",
        applies: |path, _, _, found| path.starts_with("dev/") && found.is_empty(),
    },
    Deviation {
        reason: "the top directory of an overlay is that of its upper layer, made at boot",
        applies: |path, field, _, _| path == "." && field == "mtime",
    },
    Deviation {
        reason: "an image without /etc/hosts gets one at boot, as every container does",
        applies: |path, field, expected, _| match path {
            "etc" => field == "mtime",
            "etc/hosts" => expected.is_empty(),
            _ => false,
        },
    },
    Deviation {
        reason: "as in every container, /etc/hostname has the name of the machine, and /etc/mtab leads to its mounts",
        applies: |path, field, expected, _| match path {
            "etc/hostname" => expected.is_empty() || ["mtime", "sha256", "size"].contains(&field),
            "etc/mtab" => expected.is_empty(),
            _ => false,
        },
    },
];
