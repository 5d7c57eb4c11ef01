//! PAX extended header records (POSIX pax, "pax Extended Header").

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::number::{decimal, time};
use super::sparse::{MapError, pairs, pax_01_map};
use crate::Timestamp;

/// Why a PAX header is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PaxError {
    #[error("its PAX header is malformed")]
    Malformed,
    #[error("its PAX record {0} is malformed")]
    Record(String),
    #[error("its extended attributes are longer than 1 MiB together")]
    XattrsTooLong,
}

/// The most bytes of names and values of extended attributes that apply to one entry: as many as one header can hold.
/// Those of a global header apply to all entries after it, so each further header would make every entry more
/// expensive.
const XATTRS_MAX: usize = 1 << 20;

/// The values of the records. `None` means that the header block has the value.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) device_major: Option<u64>,
    pub(super) device_minor: Option<u64>,
    /// Extended attributes by name. Entries share those of a global header.
    pub(super) xattrs: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// The total size of their names and values in bytes.
    xattr_bytes: usize,
    pub(super) sparse: SparseRecords,
}

/// The `GNU.sparse.*` records.
#[derive(Clone, Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// The map of format 0.1.
    map: Option<Vec<(u64, u64)>>,
    /// Offsets and lengths of format 0.0, in the order in which they were read.
    numbers: Vec<u64>,
}

impl SparseRecords {
    /// Returns the map, if it is in the records themselves: formats 0.0 and 0.1.
    pub(super) fn map(&self) -> Result<Option<Vec<(u64, u64)>>, MapError> {
        match &self.map {
            Some(map) => Ok(Some(map.clone())),
            // A size alone means a file that is one hole.
            None if self.numbers.is_empty() && self.real_size.is_none() => Ok(None),
            None => pairs(&self.numbers).map(Some),
        }
    }
}

impl Records {
    /// Adds the records of one extended header, which replace existing ones.
    pub(super) fn apply(&mut self, mut body: &[u8]) -> Result<(), PaxError> {
        while !body.is_empty() {
            let (keyword, value, rest) = split_record(body).ok_or(PaxError::Malformed)?;
            self.set(keyword, value).ok_or_else(|| PaxError::Record(String::from_utf8_lossy(keyword).into_owned()))?;
            if self.xattr_bytes > XATTRS_MAX {
                return Err(PaxError::XattrsTooLong);
            }
            body = rest;
        }
        Ok(())
    }

    fn set(&mut self, keyword: &[u8], value: &[u8]) -> Option<()> {
        let optional = |read: fn(&[u8]) -> Option<u64>| match value {
            b"" => Some(None),
            _ => read(value).map(Some),
        };
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match keyword {
            b"path" => self.path = text(),
            b"linkpath" => self.link_target = text(),
            b"size" => self.size = optional(decimal)?,
            b"uid" => self.uid = optional(decimal)?,
            b"gid" => self.gid = optional(decimal)?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"SCHILY.devmajor" => self.device_major = optional(decimal)?,
            b"SCHILY.devminor" => self.device_minor = optional(decimal)?,
            b"GNU.sparse.major" => self.sparse.major = optional(decimal)?,
            b"GNU.sparse.minor" => self.sparse.minor = optional(decimal)?,
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = optional(decimal)?,
            b"GNU.sparse.map" => self.sparse.map = Some(pax_01_map(value).ok()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                // They alternate: an offset, then its length.
                let is_offset = keyword.ends_with(b"offset");
                if is_offset != self.sparse.numbers.len().is_multiple_of(2) {
                    return None;
                }
                self.sparse.numbers.push(decimal(value)?);
            }
            _ => return self.set_xattr(keyword, value),
        }
        Some(())
    }

    fn set_xattr(&mut self, keyword: &[u8], value: &[u8]) -> Option<()> {
        let (name, value) = if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
            (name.to_vec(), value.to_vec())
        } else if let Some(name) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
            (percent_decode(name), base64_decode(value)?)
        } else {
            return Some(());
        };
        if name.is_empty() || name.contains(&0) {
            return None;
        }
        self.xattr_bytes += name.len() + value.len();
        let name_bytes = name.len();
        if let Some(replaced) = Arc::make_mut(&mut self.xattrs).insert(name, value) {
            self.xattr_bytes -= name_bytes + replaced.len();
        }
        Some(())
    }

    /// Returns the records that an entry starts with: the global ones without a sparse map, which never applies
    /// globally.
    pub(super) fn from_global(global: &Self) -> Self {
        Self { sparse: SparseRecords::default(), ..global.clone() }
    }
}

/// Splits off one record: `LENGTH KEYWORD=VALUE\n`, where LENGTH counts the whole record in bytes. The
/// value may hold any bytes, newlines included.
pub(crate) fn split_record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(body.get(..space)?)?).ok()?;
    let record = body.get(..length)?.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, body.get(length..)?))
}

/// Decodes `%XX` in libarchive's attribute names. A `%` that does not start such a code is kept.
fn percent_decode(text: &[u8]) -> Vec<u8> {
    let hex = |digit: Option<&u8>| digit.and_then(|&digit| char::from(digit).to_digit(16));
    let mut decoded = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let code = (byte == b'%').then(|| hex(text.get(at + 1)).zip(hex(text.get(at + 2)))).flatten();
        match code.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(code) => {
                decoded.push(code);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// Decodes base64. libarchive writes it without padding, others with padding.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    ENGINE.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
        let rest = keyword.len() + value.len() + 3;
        let length = (1..).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n).expect("a length");
        [format!("{length} {keyword}=").as_bytes(), value, b"\n"].concat()
    }

    fn records(bodies: &[Vec<u8>]) -> Result<Records, PaxError> {
        let mut records = Records::default();
        records.apply(&bodies.concat()).map(|()| records)
    }

    #[test]
    fn values_hold_any_bytes() {
        let value = b"a\nb\0c=d 12 path=x\n";
        let records = records(&[record("SCHILY.xattr.user.x", value), record("path", b"p")]).expect("good records");
        assert_eq!(*records.xattrs, BTreeMap::from([(b"user.x".to_vec(), value.to_vec())]));
        assert_eq!(records.path.as_deref(), Some(&b"p"[..]));
    }

    #[test]
    fn libarchive_attributes_are_decoded() {
        let records = records(&[record("LIBARCHIVE.xattr.user.a%20b%", b"AAEC/w")]).expect("good records");
        assert_eq!(*records.xattrs, BTreeMap::from([(b"user.a b%".to_vec(), vec![0, 1, 2, 255])]));
    }

    #[test]
    fn attributes_have_a_bound_together_and_count_once_however_often_they_are_set() {
        let one = |name: &str| record(&format!("SCHILY.xattr.user.{name}"), &vec![b'x'; 400_000]);
        let again = records(&[one("a"), one("b"), one("a"), one("b"), one("a")]).expect("good records");
        assert_eq!((again.xattrs.len(), again.xattr_bytes), (2, 800_012));
        let mut local = Records::from_global(&again);
        assert_eq!(local.apply(&one("c")), Err(PaxError::XattrsTooLong));
    }

    #[test]
    fn local_records_stand_in_front_of_global_ones_and_take_them_back() {
        let global = records(&[record("uid", b"7"), record("gid", b"8")]).expect("good records");
        let mut local = Records::from_global(&global);
        local.apply(&[record("uid", b"9"), record("gid", b"")].concat()).expect("good records");
        assert_eq!((local.uid, local.gid), (Some(9), None));
    }

    #[test]
    fn malformed_records_are_refused() {
        for body in [&b"99 path=a\n"[..], b"9 path=a\n\n", b"x", b"10 pathxa\n", b"0 ", b"18446744073709551616 a=b\n"] {
            assert!(Records::default().apply(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(records(&[record("size", b"-1")]).map(|_| ()), Err(PaxError::Record("size".into())));
    }
}
