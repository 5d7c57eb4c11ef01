//! Paths as tar entries and hard links write them.

use anyhow::{Context as _, Result, ensure};

/// A path below the root, name by name; the root is empty.
pub type Components = Vec<Vec<u8>>;

/// The longest name that Linux has (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// An entry's path from the root: `./a//b/../c/` is `a/c`.
///
/// # Errors
/// If it leaves the root, or has a name that cannot be.
pub fn normalise(path: &[u8]) -> Result<Components> {
    let mut components = Components::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(components.pop().context("the path leaves the root")?),
            name => {
                ensure!(name.len() <= NAME_MAX, "a name of {} bytes", name.len());
                ensure!(!name.contains(&0), "a name with NUL");
                components.push(name.to_vec());
            }
        }
    }
    Ok(components)
}

/// A hard link's target from the root, where `..` in the root stays there.
#[must_use]
pub fn target_components(path: &[u8]) -> Components {
    let mut components = Components::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            name => components.push(name.to_vec()),
        }
    }
    components
}

/// The path in image form: `/`, `/a`, `/a/b`.
#[must_use]
pub fn image_path(components: &[Vec<u8>]) -> Vec<u8> {
    if components.is_empty() {
        return b"/".to_vec();
    }
    components.iter().flat_map(|name| [b"/", &name[..]].concat()).collect()
}
