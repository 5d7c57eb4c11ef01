//! Paths inside a layer: always relative to its root, never resolved on the host.

/// The longest name in a directory, in bytes (Linux `NAME_MAX`).
pub(crate) const NAME_MAX: usize = 255;

/// A path inside a layer in normal form: components joined by `/`, without `.`, `..`, empty components or a leading
/// slash. The root is the empty path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct NormalPath(Vec<u8>);

/// Why a path is not valid in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// `..` leads out of the root.
    #[error("its path leads out of the image's root")]
    Escapes,
    /// A component is longer than 255 bytes.
    #[error("a component of its path is longer than 255 bytes")]
    ComponentTooLong,
    /// A NUL byte.
    #[error("its path contains a NUL byte")]
    Nul,
}

impl NormalPath {
    /// Normalises the path of an entry. A leading slash means the layer's root.
    pub(crate) fn of_entry(raw: &[u8]) -> Result<Self, PathError> {
        Self::normalise(raw, false)
    }

    /// Normalises the target of a hard link: `..` at the root stays at the root, as with `chroot`.
    pub(crate) fn of_link_target(raw: &[u8]) -> Result<Self, PathError> {
        Self::normalise(raw, true)
    }

    fn normalise(raw: &[u8], clamp: bool) -> Result<Self, PathError> {
        if raw.contains(&0) {
            return Err(PathError::Nul);
        }
        let mut path = Vec::with_capacity(raw.len());
        for component in raw.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." if path.is_empty() && clamp => {}
                b".." if path.is_empty() => return Err(PathError::Escapes),
                b".." => path.truncate(path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)),
                _ if component.len() > NAME_MAX => return Err(PathError::ComponentTooLong),
                _ => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(component);
                }
            }
        }
        Ok(Self(path))
    }

    /// Returns the path that this one leads to if its first `length` bytes name a symbolic link to `target`.
    pub(crate) fn through_link(&self, length: usize, target: &[u8]) -> Result<Self, PathError> {
        let (link, rest) = self.0.split_at_checked(length).unwrap_or((&self.0, &[]));
        let directory = match target.first() {
            Some(b'/') => &[],
            _ => link.iter().rposition(|&byte| byte == b'/').and_then(|slash| link.get(..slash)).unwrap_or_default(),
        };
        Self::of_link_target(&[directory, b"/", target, rest].concat())
    }

    /// Returns its directory and its name in that directory; `None` for the root.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        let slash = self.0.iter().rposition(|&byte| byte == b'/');
        Some(match slash {
            Some(at) => (self.0.get(..at)?, self.0.get(at + 1..)?),
            None => (&[], &self.0),
        })
    }

    /// Returns its directory. The root is its own parent.
    pub(crate) fn parent(&self) -> Self {
        Self(self.split().map(|(parent, _)| parent.to_vec()).unwrap_or_default())
    }

    /// Returns the bytes, without a leading slash.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(raw: &[u8]) -> Result<Vec<u8>, PathError> {
        NormalPath::of_entry(raw).map(|path| path.0)
    }

    #[test]
    fn every_spelling_of_a_path_has_one_normal_form() {
        for raw in [&b"a/b"[..], b"./a/b", b"/a/b", b"a//b", b"a/./b", b"a/c/../b", b"a/b/", b"//./a/b/."] {
            assert_eq!(entry(raw), Ok(b"a/b".to_vec()), "{}", String::from_utf8_lossy(raw));
        }
        for raw in [&b""[..], b".", b"./", b"/", b"/.", b"a/.."] {
            assert_eq!(entry(raw), Ok(vec![]), "{}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn paths_that_escape_are_refused_and_link_targets_are_clamped() {
        assert_eq!(entry(b"../a"), Err(PathError::Escapes));
        assert_eq!(entry(b"a/../../b"), Err(PathError::Escapes));
        let target = NormalPath::of_link_target(b"../../etc/passwd").map(|path| path.0);
        assert_eq!(target, Ok(b"etc/passwd".to_vec()));
    }

    #[test]
    fn names_of_255_bytes_fit_and_256_do_not() {
        assert!(entry(&[b'x'; 255]).is_ok());
        assert_eq!(entry(&[b'x'; 256]), Err(PathError::ComponentTooLong));
        assert_eq!(entry(b"a\0b"), Err(PathError::Nul));
    }
}
