//! Compresses layers. The same tar always becomes the same bytes, so a later push finds what an earlier one has sent.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::str::FromStr;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use oci_spec::image::MediaType;
use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::registry::UploadBlob;

/// The level of gzip: that of docker, podman and the program gzip.
const GZIP_LEVEL: u32 = 6;
/// The level of zstd: that of podman and the program zstd.
const ZSTD_LEVEL: i32 = 3;

/// How many bytes are compressed at once.
const PIECE: usize = 256 << 10;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// With gzip, which everything reads.
    #[default]
    Gzip,
    /// With zstd, which is smaller and faster, and which docker reads since version 23.
    Zstd,
    /// Not at all.
    Plain,
}

impl Packing {
    /// Returns how a layer of this type is compressed, if it is one of the known ways.
    pub(super) fn of(media_type: &str) -> Option<Self> {
        let bare = crate::oci::media_type::bare(media_type);
        match bare {
            _ if bare.ends_with("tar+gzip") || bare.ends_with("tar.gzip") => Some(Self::Gzip),
            _ if bare.ends_with("tar+zstd") || bare.ends_with("tar.zstd") => Some(Self::Zstd),
            _ if bare.ends_with(".tar") => Some(Self::Plain),
            _ => None,
        }
    }

    /// Returns the type of a layer that is compressed in this way.
    pub(super) fn media_type(self) -> MediaType {
        match self {
            Self::Gzip => MediaType::ImageLayerGzip,
            Self::Zstd => MediaType::ImageLayerZstd,
            Self::Plain => MediaType::ImageLayer,
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Plain => "none",
        })
    }
}

impl FromStr for Packing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            "none" => Ok(Self::Plain),
            _ => Err("expected gzip, zstd or none".to_owned()),
        }
    }
}

/// Compresses a tar into a file.
pub(super) fn compress(tar: &mut dyn Read, mut to: File, packing: Packing) -> io::Result<UploadBlob> {
    to.rewind()?;
    to.set_len(0)?;
    let out = Hashing { file: to, hasher: Sha256::new(), length: 0 };
    let out = match packing {
        Packing::Plain => {
            let mut out = out;
            pass(tar, &mut out)?;
            out
        }
        Packing::Gzip => {
            let mut encoder = GzEncoder::new(out, Compression::new(GZIP_LEVEL));
            pass(tar, &mut encoder)?;
            encoder.finish()?
        }
        Packing::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            pass(tar, &mut encoder)?;
            encoder.finish()?
        }
    };
    let digest = Digest::from_bytes(out.hasher.finalize().into());
    Ok(UploadBlob { file: Arc::new(out.file), digest: digest.into(), size: out.length })
}

fn pass(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(piece.get(..length).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A file, and the digest of what is written to it.
struct Hashing {
    file: File,
    hasher: Sha256,
    length: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tar_becomes_the_same_bytes() {
        let tar: Vec<u8> = (0..1_000_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        for packing in [Packing::Gzip, Packing::Zstd, Packing::Plain] {
            let made = || compress(&mut tar.as_slice(), tempfile::tempfile().unwrap(), packing).unwrap();
            let (one, other) = (made(), made());
            assert_eq!((one.digest, one.size), (other.digest, other.size), "{packing}");
            assert_eq!(Packing::of(packing.media_type().as_ref()), Some(packing));
            assert_eq!(packing.to_string().parse(), Ok(packing));
        }
        assert_eq!(Packing::of("application/vnd.docker.image.rootfs.diff.tar.gzip"), Some(Packing::Gzip));
        assert_eq!(Packing::of("application/vnd.oci.image.layer.v1.tar+xz"), None);
    }
}
