//! How a view is mounted, and the words for it after `-o` of mount(8).

/// The type shown in `/proc/self/mounts`, after `fuse.`.
pub(crate) const SUBTYPE: &str = "lamina";

/// How a view is mounted. It is always read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Lets other users in, and makes the kernel check modes and owners for everyone (`default_permissions`).
    ///
    /// Without it only the user who mounts gets in, and no mode is checked: that user can read root's 0600 files, which
    /// is what a VM that has the mount as its root needs.
    pub allow_other: bool,
    /// Makes the kernel check modes and owners without letting others in.
    pub default_permissions: bool,
    /// Honours setuid, setgid and file capabilities. Only root can use this: for other users it has no effect, as with
    /// `fusermount3`.
    pub suid: bool,
    /// Allows device nodes to be opened. Only root can use this: for other users it has no effect.
    pub dev: bool,
    /// Refuses to execute anything.
    pub noexec: bool,
    /// Shown in `/proc/self/mounts`. No access time changes, with or without it.
    pub noatime: bool,
    /// The source that `/proc/self/mounts` shows.
    pub fsname: String,
    /// The type that `/proc/self/mounts` shows, after `fuse.`. `lamina umount` removes only mounts of the
    /// default type.
    pub subtype: String,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            allow_other: false,
            default_permissions: false,
            suid: false,
            dev: false,
            noexec: false,
            noatime: false,
            fsname: SUBTYPE.to_owned(),
            subtype: SUBTYPE.to_owned(),
        }
    }
}

/// Why a mount option cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// The option asks for a writable tree.
    #[error("rw: an image cannot be changed; use ro")]
    ReadWrite,
    /// The option is known, but a mount of an image has no use for it.
    #[error("{option}: {reason}")]
    Unsupported {
        /// The option as it was given.
        option: String,
        /// Why it is refused, and what to use.
        reason: &'static str,
    },
    /// The option has no value but needs one, or the other way round.
    #[error("{0}: it takes no value, or its value is missing")]
    Value(String),
    /// The option is not known.
    #[error(
        "{0}: not an option of this mount; it has ro, allow_other, default_permissions, noexec, nosuid, nodev, noatime, \
         fsname=NAME, subtype=NAME, and those that only mount(8) and systemd read (nofail, noauto, user, _netdev, x-...)"
    )]
    Unknown(String),
}

/// Options without an effect: they say what every such mount is, or they are for mount(8), systemd and the like.
const WITHOUT_EFFECT: [&str; 31] = [
    "",
    "ro",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "nofail",
    "_netdev",
    "async",
    "sync",
    "dirsync",
    "atime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    "mand",
    "nomand",
    "noiversion",
];

/// The same, before `=` or as a prefix.
const PREFIXES_WITHOUT_EFFECT: [&str; 7] = ["x-", "X-", "comment=", "uhelper=", "helper=", "user=", "setuid="];

impl MountOptions {
    /// Applies one option of mount(8), such as `noexec` or `fsname=NAME`. A later one replaces an earlier one.
    ///
    /// # Errors
    /// Says why the option cannot be used.
    pub fn set(&mut self, option: &str) -> Result<(), OptionError> {
        if WITHOUT_EFFECT.contains(&option) || PREFIXES_WITHOUT_EFFECT.iter().any(|prefix| option.starts_with(prefix)) {
            return Ok(());
        }
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("rw", None) => return Err(OptionError::ReadWrite),
            ("allow_other", None) => self.allow_other = true,
            ("default_permissions", None) => self.default_permissions = true,
            ("suid", None) => self.suid = true,
            ("nosuid", None) => self.suid = false,
            ("dev", None) => self.dev = true,
            ("nodev", None) => self.dev = false,
            ("noexec", None) => self.noexec = true,
            ("exec", None) => self.noexec = false,
            ("noatime", None) => self.noatime = true,
            ("fsname", Some(value)) if !value.is_empty() => value.clone_into(&mut self.fsname),
            ("subtype", Some(value)) if is_subtype(value) => value.clone_into(&mut self.subtype),
            ("subtype", Some(_)) => return Err(unsupported(option, "a type has letters, digits, - and _ only")),
            ("uid" | "gid" | "umask" | "fmask" | "dmask" | "mode" | "user_id" | "group_id" | "idmap", _) => {
                return Err(unsupported(option, "owners and modes are those of the image; leave it out"));
            }
            ("allow_root", None) => {
                return Err(unsupported(option, "only allow_other is supported, which lets everyone in"));
            }
            ("remount", None) => return Err(unsupported(option, "unmount it and mount it again")),
            ("bind" | "rbind" | "move", None) => {
                return Err(unsupported(option, "bind or move the mounted directory, not the image"));
            }
            ("auto_unmount", None) => {
                return Err(unsupported(option, "the server unmounts when it ends; leave it out"));
            }
            (
                "rw"
                | "allow_other"
                | "default_permissions"
                | "suid"
                | "nosuid"
                | "dev"
                | "nodev"
                | "noexec"
                | "exec"
                | "noatime"
                | "fsname",
                _,
            ) => return Err(OptionError::Value(option.to_owned())),
            _ => return Err(OptionError::Unknown(option.to_owned())),
        }
        Ok(())
    }

    /// The options that decide who gets in.
    #[cfg(target_os = "linux")]
    pub(crate) fn access_words(&self) -> impl Iterator<Item = &'static str> {
        let checked = self.allow_other || self.default_permissions;
        self.allow_other.then_some("allow_other").into_iter().chain(checked.then_some("default_permissions"))
    }
}

fn unsupported(option: &str, reason: &'static str) -> OptionError {
    OptionError::Unsupported { option: option.to_owned(), reason }
}

fn is_subtype(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|character| character.is_ascii_alphanumeric() || "-_".contains(character))
}

/// Splits a list of options at its commas. `\,` is a comma in a value, and `\\` a backslash, as for `fusermount3`.
#[must_use]
pub fn split_options(list: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match (character, options.last_mut()) {
            (',', _) => options.push(String::new()),
            ('\\', Some(option)) => match characters.next() {
                Some(escaped @ (',' | '\\')) => option.push(escaped),
                Some(other) => option.extend(['\\', other]),
                None => option.push('\\'),
            },
            (_, Some(option)) => option.push(character),
            (_, None) => {}
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

/// Writes `value` so that [`split_options`] and `fusermount3` read it as one value.
#[cfg(any(target_os = "linux", test))]
pub(crate) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        for option in split_options(list) {
            options.set(&option)?;
        }
        Ok(options)
    }

    #[test]
    fn a_line_of_fstab_is_understood() {
        let list =
            "ro,nofail,noauto,_netdev,users,x-systemd.automount,x-systemd.idle-timeout=1min,relatime,comment=a b";
        assert_eq!(parsed(list), Ok(MountOptions::default()));
        assert_eq!(parsed(""), Ok(MountOptions::default()));
        let expected = MountOptions {
            allow_other: true,
            default_permissions: true,
            noexec: true,
            noatime: true,
            fsname: "a,b".to_owned(),
            subtype: "image".to_owned(),
            ..MountOptions::default()
        };
        let list = r"allow_other,default_permissions,noexec,noatime,fsname=a\,b,subtype=image,";
        assert_eq!(parsed(list), Ok(expected));
    }

    #[test]
    fn a_later_option_replaces_an_earlier_one() {
        assert_eq!(parsed("suid,dev,noexec,nosuid,nodev,exec"), Ok(MountOptions::default()));
        let options = parsed("nosuid,nodev,suid,dev").unwrap();
        assert!(options.suid && options.dev);
    }

    #[test]
    fn an_option_that_would_not_be_honoured_is_refused_by_name() {
        assert_eq!(parsed("ro,rw"), Err(OptionError::ReadWrite));
        for wrong in ["uid=0", "gid=5", "umask=022", "allow_root", "remount", "bind", "subtype=a.b", "windows", "rw=1"]
            .into_iter()
            .chain(["noexec=yes", "fsname", "fsname=", "nosuch=", "ROW"])
        {
            let refused = parsed(wrong).unwrap_err().to_string();
            assert!(refused.starts_with(wrong), "{wrong}: {refused}");
        }
    }

    #[test]
    fn values_keep_their_commas() {
        assert_eq!(split_options(r"a,b=c\,d\\,,\x"), ["a", r"b=c,d\", r"\x"]);
        let value = r"a\,b,c\";
        assert_eq!(split_options(&escaped(value)), [value]);
    }
}
