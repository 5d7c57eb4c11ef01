//! Unmounting by the program umount, which every Unix has.

use crate::mount::MountError;
use std::path::Path;
use std::process::Command;

/// Unmounts what is mounted at `path`. Whether that is a mount of this crate is not checked: systems differ in what they say
/// about a mount.
///
/// # Errors
/// [`MountError::NotMounted`], [`MountError::Busy`], or what the program said.
pub fn unmount(path: &Path) -> Result<(), MountError> {
    let failed = |source| MountError::Unreadable { path: path.to_owned(), source };
    // An absolute path is not taken for an option.
    let absolute = std::path::absolute(path).map_err(failed)?;
    let output = Command::new("umount").arg(&absolute).env("LC_ALL", "C").output();
    let output = output.map_err(|source| failed(std::io::Error::new(source.kind(), format!("umount: {source}"))))?;
    if output.status.success() {
        return Ok(());
    }
    Err(refusal(path, &absolute, &String::from_utf8_lossy(&output.stderr)))
}

/// Returns what a failed umount has said about `path`, which it was given as `absolute`.
fn refusal(path: &Path, absolute: &Path, said: &str) -> MountError {
    // Linux begins each line with `umount: PATH: `, and macOS with `umount(PATH): `. A path may contain any word.
    let heads = [format!("umount: {}: ", absolute.display()), format!("umount({}): ", absolute.display())];
    let line = |line| {
        let whole = str::trim(line);
        heads
            .iter()
            .find_map(|head| whole.strip_prefix(head))
            .or_else(|| whole.strip_prefix("umount: "))
            .unwrap_or(whole)
    };
    let complaint = said.lines().map(line).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let plain = complaint.to_ascii_lowercase().replace(&absolute.display().to_string().to_ascii_lowercase(), "");
    if plain.contains("busy") {
        MountError::Busy(path.to_owned())
    } else if plain.contains("not mounted") || plain.contains("not currently mounted") {
        MountError::NotMounted(path.to_owned())
    } else {
        MountError::UnmountRefused { path: path.to_owned(), complaint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_path_do_not_count_and_are_not_repeated() {
        let of = |path: &str, said: &str| refusal(Path::new(path), Path::new(path), said).to_string();
        let busy = of("/mnt/a", "umount: /mnt/a: target is busy.\n");
        assert_eq!(of("/mnt/a", "umount(/mnt/a): Resource busy -- try 'diskutil unmount'\n"), busy);
        let missing = of("/mnt/busybox", "umount: /mnt/busybox: not mounted.\n");
        assert_ne!(missing, busy.replace("/mnt/a", "/mnt/busybox"));
        assert_eq!(of("/mnt/busybox", "umount: /mnt/busybox: not currently mounted\n"), missing);
        let refused = of("/mnt/busy", "umount: /mnt/busy: must be superuser to unmount.\n");
        assert!(refused.ends_with("umount: must be superuser to unmount."), "{refused}");
        assert_eq!(refused.matches("/mnt/busy").count(), 1, "{refused}");
    }
}
