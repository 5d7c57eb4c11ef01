//! `-v`, `--mount` and `--tmpfs`: what a guest sees besides its root.

use std::collections::BTreeMap;
use std::path::Path;

use guest_protocol::Tmpfs;
use transfer_cli::parse_size;

use crate::failure::{About, Failure};
use crate::machine::volumes::{self, Volume};
use crate::spec::share::{Share, check_guest_path};

/// One thing to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mount {
    /// A directory or file of this host.
    Share(Share),
    /// A named volume. The share's host path is its name; `spelled` if nothing else can be meant.
    Volume { share: Share, spelled: bool },
    /// A directory of the root that takes writes, as the image's volumes do.
    Anonymous(String),
    /// A file system in memory.
    Tmpfs(Tmpfs),
}

/// Options that mount things.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Mounts {
    /// Share a directory or a single file of this host, or a named volume (NAME without "/"), with the VM. Options, separated
    /// by commas: ro (read-only), uid=N and gid=N (the user and group of the VM that it belongs to, instead of the
    /// command's). A path alone is a directory of the VM that takes writes even with --read-only
    #[arg(short = 'v', long = "volume", value_name = "HOST:GUEST[:OPTIONS]", value_parser = parse_volume)]
    volumes: Vec<Mount>,
    /// The same in words: type=bind|volume|tmpfs,src=HOST,dst=GUEST[,ro] and the options of -v and --tmpfs
    #[arg(long = "mount", value_name = "KEY=VALUE,...", value_parser = parse_mount)]
    mounts: Vec<Mount>,
    /// Mount a file system in memory; options as in mount(8), such as size=64m or exec
    #[arg(long = "tmpfs", value_name = "GUEST[:OPTIONS]", value_parser = parse_tmpfs)]
    tmpfs: Vec<Mount>,
}

/// What is mounted, once names are resolved.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// With absolute host paths.
    pub(super) shares: Vec<Share>,
    pub(super) anonymous: Vec<String>,
    pub(super) tmpfs: Vec<Tmpfs>,
}

impl Mounts {
    /// Resolves names, and creates volumes that do not exist, unless this is only a try.
    pub(super) fn resolve(&self, only_try: bool) -> Result<Resolved, Failure> {
        let mut resolved = Resolved::default();
        for mount in self.volumes.iter().chain(&self.mounts).chain(&self.tmpfs).cloned() {
            match mount {
                Mount::Share(share) => {
                    let host = std::path::absolute(&share.host).about(share.host.display())?;
                    resolved.shares.push(Share { host, ..share });
                }
                Mount::Volume { share, spelled } => resolved.shares.push(named(share, spelled, only_try)?),
                Mount::Anonymous(path) => resolved.anonymous.push(path),
                Mount::Tmpfs(tmpfs) => resolved.tmpfs.push(tmpfs),
            }
        }
        Ok(resolved)
    }
}

/// Returns the share of a named volume.
fn named(share: Share, spelled: bool, only_try: bool) -> Result<Share, Failure> {
    let name = share.host.display().to_string();
    if !spelled && share.host.exists() {
        let remedy =
            format!("write -v ./{name}:{0} for that, or --mount src={name},dst={0} for the volume", share.guest);
        let cause = "it may mean a volume, or the file or directory with this name here";
        return Err(Failure::new(format_args!("-v {name}:{}", share.guest), cause).with_hint(remedy));
    }
    let host = match Volume::find(&name)? {
        // A directory that exists stands for the volume that would be created.
        None if only_try => std::env::temp_dir(),
        Some(volume) => volume.data(),
        None => Volume::find_or_create(&name, BTreeMap::new())?.data(),
    };
    Ok(Share { host, ..share })
}

fn parse_volume(text: &str) -> Result<Mount, String> {
    if text.starts_with('/') && !text.contains(':') {
        check_guest_path(text)?;
        return Ok(Mount::Anonymous(text.to_owned()));
    }
    let share: Share = text.parse()?;
    let options = text.rsplit(':').next().unwrap_or_default();
    Ok(match share.host.to_str() {
        Some(name) if volumes::is_valid_name(name) => {
            let fills = !options.split(',').any(|option| option == "nocopy");
            Mount::Volume { share: Share { fills, ..share }, spelled: false }
        }
        _ => Mount::Share(share),
    })
}

fn parse_tmpfs(text: &str) -> Result<Mount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    check_guest_path(target)?;
    let options = options.split(',').filter(|option| !option.is_empty()).map(tmpfs_option).collect::<Result<_, _>>()?;
    Ok(Mount::Tmpfs(Tmpfs { target: target.to_owned(), options }))
}

/// Checks an option of a file system in memory, and writes sizes in bytes.
fn tmpfs_option(option: &str) -> Result<String, String> {
    const FLAGS: [&str; 9] = ["ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime"];
    let wrong = || {
        format!("{option:?} is no option of a tmpfs (size=N, mode=N, uid=N, gid=N, nr_inodes=N, ro, exec, suid, dev)")
    };
    match option.split_once('=') {
        None if FLAGS.contains(&option) => Ok(option.to_owned()),
        Some(("size", size)) if size.ends_with('%') => Ok(option.to_owned()),
        Some(("size", size)) => Ok(format!("size={}", parse_size(size)?)),
        Some(("mode", mode)) if u32::from_str_radix(mode, 8).is_ok() => Ok(option.to_owned()),
        Some(("uid" | "gid" | "nr_inodes", number)) if number.parse::<u32>().is_ok() => Ok(option.to_owned()),
        _ => Err(wrong()),
    }
}

/// Reads what docker's `--mount` takes.
fn parse_mount(text: &str) -> Result<Mount, String> {
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut read_only, mut fills, mut tmpfs) = (false, true, Vec::new());
    let (mut uid, mut gid) = (None, None);
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        let number = || value.parse::<u32>().map(Some).map_err(|_| format!("{part:?} needs a number"));
        let is_on = || matches!(value, "true" | "1");
        match key {
            "type" => kind = value,
            "src" | "source" => source = Some(value),
            "dst" | "target" | "destination" => target = Some(value),
            "ro" | "readonly" => read_only = is_on(),
            "rw" => read_only = !is_on(),
            "uid" => uid = number()?,
            "gid" => gid = number()?,
            "volume-nocopy" => fills = !is_on(),
            "tmpfs-size" => tmpfs.push(tmpfs_option(&format!("size={value}"))?),
            "tmpfs-mode" => tmpfs.push(tmpfs_option(&format!("mode={value}"))?),
            "bind-propagation" | "consistency" | "relabel" | "z" | "Z" | "U" | "chown" | "bind-recursive" => {}
            _ => {
                return Err(format!(
                    "{key:?} is not known here; use type, src, dst, ro, uid, gid, volume-nocopy, tmpfs-size, tmpfs-mode"
                ));
            }
        }
    }
    let guest = target.ok_or("dst=GUEST is missing")?.to_owned();
    check_guest_path(&guest)?;
    let share = |host: &str, fills| Share { host: host.into(), guest: guest.clone(), read_only, uid, gid, fills };
    match (kind, source) {
        ("bind", Some(host)) if !host.is_empty() => Ok(Mount::Share(share(host, false))),
        ("bind", _) => Err("src=HOST is missing".to_owned()),
        ("volume", Some(name)) if volumes::is_valid_name(name) => {
            Ok(Mount::Volume { share: share(name, fills), spelled: true })
        }
        ("volume", Some(name)) if Path::new(name).is_absolute() => {
            Err(format!("{name:?} is no name of a volume; a directory is shared with type=bind"))
        }
        ("volume", Some(name)) => Err(format!("{name:?} is no name of a volume")),
        ("volume", None) => Ok(Mount::Anonymous(guest)),
        ("tmpfs", None) => {
            tmpfs.extend(read_only.then(|| "ro".to_owned()));
            Ok(Mount::Tmpfs(Tmpfs { target: guest, options: tmpfs }))
        }
        ("image", _) => {
            Err("an image is mounted first (lamina mount IMAGE DIR), and shared with type=bind,src=DIR".to_owned())
        }
        ("tmpfs", Some(_)) => Err("a tmpfs has no source".to_owned()),
        _ => Err(format!("{kind:?} is not known here; use bind, volume or tmpfs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(host: &str, guest: &str) -> Share {
        Share { host: host.into(), guest: guest.into(), read_only: false, uid: None, gid: None, fills: false }
    }

    fn tmpfs(target: &str, options: &[&str]) -> Result<Mount, String> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Ok(Mount::Tmpfs(Tmpfs { target: target.into(), options }))
    }

    #[test]
    fn a_name_is_a_volume_and_a_path_a_share() {
        let volume = |spelled| Ok(Mount::Volume { share: Share { fills: true, ..share("db", "/data") }, spelled });
        assert_eq!(parse_volume("db:/data"), volume(false));
        assert_eq!(parse_volume("db:/data:z"), volume(false));
        assert_eq!(parse_volume("./db:/data"), Ok(Mount::Share(share("./db", "/data"))));
        assert_eq!(parse_volume(".:/data"), Ok(Mount::Share(share(".", "/data"))));
        assert_eq!(parse_volume("/data"), Ok(Mount::Anonymous("/data".into())));
        assert_eq!(parse_mount("type=volume,source=db,target=/data"), volume(true));
        assert_eq!(parse_mount("src=db,dst=/data"), volume(true));
        let Ok(Mount::Volume { share, .. }) = parse_volume("db:/data:nocopy,ro") else { panic!("no volume") };
        assert!(share.read_only && !share.fills);
        for wrong in ["data", "db:", ":/a", "/", "db:data"] {
            assert!(parse_volume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mounts_are_read_in_words() {
        let read_only = Share { read_only: true, ..share("/a", "/b") };
        assert_eq!(parse_mount("type=bind,source=/a,destination=/b,readonly"), Ok(Mount::Share(read_only.clone())));
        assert_eq!(parse_mount("type=bind,src=/a,dst=/b,ro=true,bind-propagation=rslave"), Ok(Mount::Share(read_only)));
        assert_eq!(
            parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770"),
            tmpfs("/t", &["size=1048576", "mode=1770"])
        );
        assert_eq!(parse_mount("type=volume,dst=/t"), Ok(Mount::Anonymous("/t".into())));
        for wrong in [
            "",
            "type=bind,src=/a",
            "type=npipe,src=/a,dst=/b",
            "dst=/b,what=1",
            "type=volume,src=/a,dst=/b",
            "type=bind,dst=/a",
        ] {
            assert!(parse_mount(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn file_systems_in_memory_have_the_options_of_mount() {
        assert_eq!(parse_tmpfs("/run"), tmpfs("/run", &[]));
        assert_eq!(
            parse_tmpfs("/tmp:rw,size=64m,mode=1777,exec"),
            tmpfs("/tmp", &["rw", "size=67108864", "mode=1777", "exec"])
        );
        for wrong in ["", "run", "/run:what", "/run:size=x", "/run:mode=9"] {
            assert!(parse_tmpfs(wrong).is_err(), "{wrong}");
        }
    }
}
