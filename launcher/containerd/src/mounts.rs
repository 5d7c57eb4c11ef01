//! Descriptions of mounts, as containerd's runtimes carry them out.

use std::path::Path;

pub(crate) use crate::api::Mount;

/// A directory that is bound.
pub(crate) fn bind(source: &Path, is_writable: bool) -> Mount {
    let access = if is_writable { "rw" } else { "ro" };
    Mount { r#type: "bind".into(), source: source.display().to_string(), options: vec!["rbind".into(), access.into()] }
}

/// An overlay on a view. Without its optional features, whatever the kernel's defaults are: a directory that was moved and
/// a file of which only the attributes were copied could not become parts of a layer.
pub(crate) fn overlay(lower: &Path, upper: &Path, work: &Path) -> Mount {
    let path = |name: &str, path: &Path| format!("{name}={}", path.display());
    let mut options: Vec<String> = ["index=off", "redirect_dir=off", "metacopy=off"].map(str::to_owned).into();
    options.extend([path("workdir", work), path("upperdir", upper), path("lowerdir", lower)]);
    Mount { r#type: "overlay".into(), source: "overlay".into(), options }
}
