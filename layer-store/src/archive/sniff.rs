//! Detects the form of a file from its first bytes.

use crate::ingest::Compression;

/// How many bytes [`form`] looks at: one tar header.
pub(super) const HEAD: u64 = 512;

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A tar archive, or 512 zero bytes: the end of an empty one.
    Tar,
    /// Something compressed, whether the compression is supported or not.
    Compressed,
    /// Anything else.
    Other,
}

/// Detects the form from the first 512 bytes, or from all bytes of a shorter file.
pub(super) fn form(head: &[u8]) -> Form {
    if is_tar_header(head) || (head.len() as u64 == HEAD && head.iter().all(|byte| *byte == 0)) {
        return Form::Tar;
    }
    match Compression::of(head) {
        Compression::Plain => Form::Other,
        _ => Form::Compressed,
    }
}

/// Whether the checksum of a tar header is right: the sum of its bytes, with those of the checksum itself
/// counted as spaces (pax, "ustar Interchange Format"; some old programs summed signed bytes).
fn is_tar_header(header: &[u8]) -> bool {
    let Some(field) = header.get(148..156).filter(|_| header.len() as u64 == HEAD) else { return false };
    let digits: String =
        field.iter().map(|b| char::from(*b)).skip_while(|c| *c == ' ').take_while(char::is_ascii_digit).collect();
    let Ok(stored) = i64::from_str_radix(&digits, 8) else { return false };
    let outside = |position: usize| !(148..156).contains(&position);
    let spaces = 8 * i64::from(b' ');
    let kept = || header.iter().enumerate().filter(|(position, _)| outside(*position)).map(|(_, byte)| *byte);
    let unsigned: i64 = kept().map(i64::from).sum::<i64>() + spaces;
    let signed: i64 = kept().map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + spaces;
    stored == unsigned || stored == signed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_is_known_by_its_checksum() {
        let mut header = tar::Header::new_gnu();
        header.set_path("some/file").unwrap();
        header.set_size(3);
        header.set_cksum();
        assert_eq!(form(header.as_bytes()), Form::Tar);
        let mut changed = *header.as_bytes();
        changed[0] ^= 1;
        assert_eq!(form(&changed), Form::Other);
        assert_eq!(form(&[0; 512]), Form::Tar);
        assert_eq!(form(&[0; 511]), Form::Other);
        assert_eq!(form(b""), Form::Other);
    }
}
