//! The parts of a kernel image: the header of a bzImage (the kernel's `Documentation/arch/x86/boot.rst`), and what a
//! hypervisor needs of an ELF file.

/// Offsets of fields in a bzImage. `payload_offset` counts from the end of the real-mode code.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// The first version of the boot protocol with the last two of them.
const FIRST_VERSION: u16 = 0x0208;

/// Where the image is damaged, in words.
const CUT_OFF: &str = "it ends before the kernel in it does, so it is damaged";

/// Returns the compressed kernel in a bzImage.
pub(super) fn payload(image: &[u8]) -> Result<&[u8], String> {
    if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        return Err("it is not a Linux bzImage".to_owned());
    }
    let version = number(image, VERSION, 2).ok_or(CUT_OFF)?;
    if version < u64::from(FIRST_VERSION) {
        let (major, minor) = (version >> 8, version & 0xff);
        return Err(format!("its boot protocol is {major}.{minor:02}, which does not say where the kernel in it is"));
    }
    let sectors = match number(image, SETUP_SECTORS, 1).ok_or(CUT_OFF)? {
        // As in the first versions of the format.
        0 => 4,
        sectors => sectors,
    };
    let offset = number(image, PAYLOAD_OFFSET, 4).ok_or(CUT_OFF)?;
    let length = number(image, PAYLOAD_LENGTH, 4).ok_or(CUT_OFF)?;
    let begin = usize::try_from((sectors + 1) * 512 + offset).map_err(|_| CUT_OFF)?;
    let end = begin.checked_add(usize::try_from(length).map_err(|_| CUT_OFF)?).ok_or(CUT_OFF)?;
    Ok(image.get(begin..end).ok_or(CUT_OFF)?)
}

/// Checks that a file is an ELF file of a 64-bit x86 kernel, and that no segment of it is missing.
pub(super) fn check_elf(elf: &[u8]) -> Result<(), String> {
    const LOAD: u64 = 1;
    const X86_64: u64 = 62;
    // ELF64, little-endian.
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") || number(elf, 18, 2) != Some(X86_64) {
        return Err("what is in it is not the ELF file of a 64-bit x86 kernel".to_owned());
    }
    let incomplete = || "the ELF file in it is incomplete, so it is damaged".to_owned();
    let at = |offset: u64, size| number(elf, usize::try_from(offset).ok()?, size);
    let (table, size, count) = (at(32, 8), at(54, 2), at(56, 2));
    let (Some(table), Some(size), Some(count)) = (table, size, count) else { return Err(incomplete()) };
    let mut loaded = 0;
    for position in 0..count {
        let header = table.checked_add(position * size).ok_or_else(incomplete)?;
        let field = |offset: u64, size| at(header.checked_add(offset)?, size);
        let (kind, offset, length) = (field(0, 4), field(8, 8), field(32, 8));
        let (Some(kind), Some(offset), Some(length)) = (kind, offset, length) else { return Err(incomplete()) };
        if kind == LOAD {
            loaded += 1;
            offset.checked_add(length).filter(|end| *end <= elf.len() as u64).ok_or_else(incomplete)?;
        }
    }
    if loaded == 0 { Err(incomplete()) } else { Ok(()) }
}

/// Reads a little-endian number of at most 8 bytes.
pub(super) fn number(bytes: &[u8], offset: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
