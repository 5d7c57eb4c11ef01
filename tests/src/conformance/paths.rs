//! Paths as tar entries and hard links write them.

use anyhow::{Context as _, Result, bail, ensure};

/// A path below the root, name by name. It is empty for the root.
pub type Components = Vec<Vec<u8>>;

/// The longest name that Linux allows (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// Returns an entry's path from the root: `./a//b/../c/` is `a/c`.
///
/// # Errors
/// If it leaves the root, or has an impossible name.
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

/// Returns a hard link's target from the root. `..` in the root is the root.
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

/// What a path leads to, for [`follow`].
#[derive(Clone, Debug)]
pub enum Step {
    /// A directory: the path continues in it.
    Directory,
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// Anything else, or nothing.
    End,
}

/// Resolves the symbolic links in the directory part of a path. What `step` does not know stays as it is.
///
/// # Errors
/// For more than 40 symbolic links.
pub fn follow(path: &Components, step: impl Fn(&[Vec<u8>]) -> Step) -> Result<Components> {
    let mut path = path.clone();
    for _ in 0..=40 {
        let mut link = None;
        for end in 1..path.len() {
            match step(&path[..end]) {
                Step::Directory => continue,
                Step::Symlink(target) => link = Some((end, target)),
                Step::End => {}
            }
            break;
        }
        let Some((end, target)) = link else { return Ok(path) };
        let directory = if target.starts_with(b"/") { &[][..] } else { &path[..end - 1] };
        let text = [image_path(directory), b"/".to_vec(), target, image_path(&path[end..])].concat();
        path = target_components(&text);
    }
    bail!("a path through a circle of symbolic links")
}

/// Returns the path in image form: `/`, `/a`, `/a/b`.
#[must_use]
pub fn image_path(components: &[Vec<u8>]) -> Vec<u8> {
    if components.is_empty() {
        return b"/".to_vec();
    }
    components.iter().flat_map(|name| [b"/", &name[..]].concat()).collect()
}
