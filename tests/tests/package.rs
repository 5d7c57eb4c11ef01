//! The packages that `scripts/package` makes, and the README's quick start on a Debian that has nothing but the package.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::oracle::Unpacked;
use end_to_end::programs::{built, installed};
use end_to_end::{Finished, Image, Registry};
use serde_json::Value;

/// The workspace.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Makes `root` the root of a mount namespace and runs `/inside` there. Guests boot this host's kernel: installing a
/// kernel would only take time.
const ENTER: &str = r#"
set -e
mount --make-rprivate /
mount --bind "$0" "$0"
cd "$0"
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --bind /boot boot
mkdir -p lib/modules
mount --bind /lib/modules lib/modules
pivot_root . mnt
umount -l /mnt
exec sh /inside "$@"
"#;

/// Installs the package with what it depends on, then runs the quick start as a new user.
const INSIDE: &str = r#"
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --yes --no-install-recommends /lamina.deb qemu-system-x86 passt > /dev/null
chmod 0666 /dev/fuse
# It ran as the package's script asked for.
id -nG lamina | grep -qw kvm
test "$(readlink /usr/sbin/mount.fuse.lamina)" = ../bin/lamina
useradd --create-home somebody
exec setpriv --reuid=somebody --regid=somebody --init-groups env -i HOME=/home/somebody USER=somebody PATH=/usr/bin:/bin \
  sh -exc 'cd; . /quick-start'
"#;

fn package(directory: &Path) {
    let mut command = Command::new(Path::new(REPOSITORY).join("scripts/package"));
    Finished::of(command.arg("--binary").arg(built("lamina")).arg(directory)).succeeded();
}

/// The only file of a directory whose name ends with `end`.
fn file(directory: &Path, end: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .expect("the packages")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    assert_eq!(found.len(), 1, "files that end with {end}: {found:?}");
    found.remove(0)
}

/// The commands of the README's quick start, without the installation and comments.
fn quick_start() -> Vec<String> {
    let readme = fs::read_to_string(Path::new(REPOSITORY).join("README.md")).expect("the README");
    let (_, section) = readme.split_once("\n## Quick start\n").expect("the README has a quick start");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let commands = section.lines().filter_map(|line| line.strip_prefix("    "));
    let commands = commands.map(|line| line.split(" #").next().unwrap_or_default().trim_end().to_owned());
    commands.filter(|line| !line.is_empty() && !line.starts_with("sudo ")).collect()
}

#[test]
fn packages_have_what_they_name_and_their_checksums_hold() {
    let out = tempfile::tempdir().unwrap();
    package(out.path());
    let sums = Finished::of(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&out));
    assert_eq!(sums.succeeded().stdout.lines().count(), 3);
    let bill: Value = serde_json::from_slice(&fs::read(file(out.path(), ".cdx.json")).unwrap()).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["metadata"]["component"]["name"]), (&"CycloneDX".into(), &"lamina".into()));
    let names: Vec<&str> =
        bill["components"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert!(names.contains(&"layer-store") && names.contains(&"rustix"), "{names:?}");
    assert!(!names.contains(&"proptest"), "a dependency of tests is not in the program: {names:?}");
    let listed = Finished::of(Command::new("tar").arg("-tzf").arg(file(out.path(), ".tar.gz"))).succeeded().stdout;
    let contents =
        Finished::of(Command::new(installed("dpkg-deb")).arg("-c").arg(file(out.path(), ".deb"))).succeeded();
    for part in [
        "bin/lamina",
        "bin/lamina-containerd",
        "sbin/mount.fuse.lamina",
        "share/man/man1/lamina-run.1.gz",
        "share/man/man1/lamina-containerd-pull.1.gz",
        "share/bash-completion/completions/lamina",
        "share/zsh/vendor-completions/_lamina",
        "share/fish/vendor_completions.d/lamina.fish",
        "lib/systemd/system/lamina@.service",
        "lib/systemd/system/lamina-containerd.service",
        "lib/systemd/system/lamina-containerd.socket",
        "lib/systemd/user/lamina@.service",
        "share/doc/lamina/copyright",
        "share/doc/lamina/apparmor/lamina",
    ] {
        assert!(listed.contains(&format!("/{part}\n")), "{part} is not in the tarball:\n{listed}");
        assert!(contents.stdout.contains(&format!(" ./usr/{part}")), "{part} is not in the package:\n{contents}");
    }
    for page in fs::read_dir(Path::new(REPOSITORY).join("launcher/man")).expect("the pages about topics").flatten() {
        let name = page.file_name().into_string().unwrap().replace(".md", ".gz");
        assert!(contents.stdout.contains(&format!("/man7/{name}\n")), "{name} is not in the package:\n{contents}");
    }
    assert!(!contents.stdout.contains(" ./sbin/"), "a merged /usr has no other /sbin");
}

#[test]
fn quick_start_of_the_readme_works_on_a_debian_that_has_only_the_package() {
    let scratch = tempfile::Builder::new().prefix("lamina-package-").tempdir_in("/tmp").unwrap();
    let unpacked = Unpacked::of(&format!("{}:latest", Image::Debian.layout().display()), scratch.path());
    let root = unpacked.root();
    package(scratch.path());
    fs::copy(file(scratch.path(), ".deb"), root.join("lamina.deb")).unwrap();
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    // An installed system has these, and a bare root does not.
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    symlink("/proc/self/mounts", root.join("etc/mtab")).unwrap();
    fs::write(root.join("inside"), INSIDE).unwrap();
    let registry = Registry::plain();
    let reference = registry.name("debian:12");
    registry.push_layout(&Image::Debian.layout(), "debian", "12");
    let commands = quick_start();
    assert!(commands.iter().any(|line| line.starts_with("lamina run ")), "{commands:?}");
    let script = commands.join("\n").replace("debian:12", &reference);
    fs::write(root.join("quick-start"), script).unwrap();
    let enter = ["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER];
    let finished = Finished::of(Command::new(installed("unshare")).args(enter).arg(&root)).succeeded();
    assert!(finished.stdout.contains("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\""), "{finished}");
}
