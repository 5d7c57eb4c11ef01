use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::*;

/// The programs of the kernel's build (`scripts/Makefile.lib`), and whether the size is added after what they write.
const PROGRAMS: [(&str, &[&str], bool); 6] = [
    ("gzip", &["-n", "-9"], false),
    ("xz", &["--check=crc32", "--x86", "--lzma2=dict=32MiB", "-c"], true),
    ("xz", &["--format=lzma", "-9", "-c"], true),
    ("bzip2", &["-9", "-c"], true),
    ("lz4", &["-l", "-9", "-c"], true),
    ("zstd", &["-19", "-c"], true),
];

/// An ELF file with one segment: somewhat more than two blocks of lz4, so that a cut is not always at its end.
fn elf() -> Vec<u8> {
    let mut elf = vec![0; 17 << 20];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64] = 1;
    let length = (elf.len() as u64).to_le_bytes();
    elf[64 + 32..64 + 40].copy_from_slice(&length);
    let mut state = 1_u32;
    for byte in &mut elf[4096..200_000] {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_le_bytes()[3];
    }
    elf
}

fn compressed(content: &[u8], (program, arguments, adds_size): (&str, &[&str], bool)) -> Vec<u8> {
    let piped = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = piped.unwrap_or_else(|error| panic!("{program}: {error}: scripts/setup installs it"));
    let (mut input, mut output) = (child.stdin.take().unwrap(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(content).unwrap());
        child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    });
    assert!(child.wait().unwrap().success());
    if adds_size {
        output.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    }
    output
}

/// A bzImage whose real-mode code has two sectors.
fn image(payload: &[u8], after: usize) -> Vec<u8> {
    let mut image = vec![0; 3 * 512 + 100];
    image[0x1f1] = 2;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&100_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.extend(payload);
    image.resize(image.len() + after, 0);
    image
}

#[test]
fn kernels_of_every_compression_are_unpacked_and_damaged_ones_refused() {
    let elf = elf();
    for program in PROGRAMS {
        let payload = compressed(&elf, program);
        assert!(unpack(&image(&payload, 777)).is_ok_and(|unpacked| unpacked == elf), "{program:?}");
        let refused = |payload: &[u8], what: &str| match unpack(&image(payload, 777)) {
            Ok(_) => panic!("{program:?} {what} is unpacked"),
            Err(cause) => assert!(cause.contains("damaged"), "{program:?} {what}: {cause}"),
        };
        refused(&payload[..payload.len() / 2], "cut in half");
        refused(&payload[..payload.len() - 1], "without its last byte");
        for length in 6..30 {
            refused(&payload[..length], "of few bytes");
        }
        let mut wrong = payload.clone();
        let last = wrong.len() - 4;
        wrong[last] ^= 1;
        refused(&wrong, "with another size");
        let has_checksum = program.0 != "lz4" && program.1[0] != "--format=lzma";
        for position in (0..10).map(|tenth| payload.len() * tenth / 10 + 12).filter(|_| has_checksum) {
            let mut wrong = payload.clone();
            wrong[position] ^= 0x10;
            assert!(unpack(&image(&wrong, 777)).is_err(), "{program:?} changed at {position}");
        }
    }
}

#[test]
fn what_is_not_an_image_or_holds_no_kernel_is_named() {
    let cause = |image: &[u8]| unpack(image).unwrap_err();
    assert_eq!(cause(&elf()), "it is not a Linux bzImage");
    assert_eq!(cause(b""), "it is not a Linux bzImage");
    let whole = image(&compressed(&elf(), PROGRAMS[0]), 0);
    for length in [0x206, 0x207, 0x249, 0x250, 2000, whole.len() - 1] {
        assert!(cause(&whole[..length]).contains("damaged"), "{length}");
    }
    let mut old = whole.clone();
    old[0x206..0x208].copy_from_slice(&0x0205_u16.to_le_bytes());
    assert!(cause(&old).contains("boot protocol is 2.05"));
    let mut far = whole.clone();
    far[0x248..0x250].fill(0xff);
    assert!(cause(&far).contains("damaged"));
    let lzo = b"\x89LZO\0\r\n\x1a\n and more";
    assert!(cause(&image(lzo, 0)).contains("lzo"));
    assert!(cause(&image(b"no compression at all", 0)).contains("does not know"));
    let text = compressed(&[b'x'; 9000], PROGRAMS[0]);
    assert!(cause(&image(&text, 0)).contains("not the ELF file"));
    let mut short = elf();
    short[64 + 8] = 1;
    assert!(cause(&image(&compressed(&short, PROGRAMS[0]), 0)).contains("incomplete"));
}

/// With the kernel that guests get, whatever its compression is.
#[test]
fn kernel_of_this_host_is_unpacked_once_and_again_if_it_was_damaged() {
    let cache = tempfile::tempdir().unwrap();
    let kernel = Kernel::find(None).expect("a guest kernel: apt-get install linux-image-cloud-amd64");
    let path = of_kernel(&kernel, cache.path()).unwrap();
    let elf = fs::read(&path).unwrap();
    let banner = format!("Linux version {} ", kernel.release);
    assert!(elf.windows(banner.len()).any(|window| window == banner.as_bytes()));
    let made = || (of_kernel(&kernel, cache.path()).unwrap(), fs::metadata(&path).unwrap().ino());
    let first = made();
    assert_eq!(made(), first, "it is made once");
    for damage in [
        |path: &Path| File::options().write(true).open(path).unwrap().set_len(1 << 20).unwrap(),
        |path: &Path| fs::write(path, b"").unwrap(),
        |path: &Path| {
            let mut content = fs::read(path).unwrap();
            let middle = content.len() / 2;
            content[middle] ^= 1;
            fs::write(path, content).unwrap();
        },
    ] {
        damage(&path);
        assert_eq!(of_kernel(&kernel, cache.path()).unwrap(), path);
        assert!(fs::read(&path).unwrap() == elf);
    }
    let names = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name != "found.json").count(), 1);
}

#[test]
fn damaged_kernel_of_this_host_is_refused_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let found = Kernel::find(None).expect("a guest kernel: apt-get install linux-image-cloud-amd64");
    let whole = fs::read(&found.image).unwrap();
    let kernel = Kernel { image: directory.path().join("vmlinuz"), ..found };
    for length in [100, 4096, whole.len() / 2] {
        fs::write(&kernel.image, &whole[..length]).unwrap();
        let failure = of_kernel(&kernel, &directory.path().join("cache")).unwrap_err().to_string();
        assert!(failure.contains("vmlinuz: it ") && failure.contains("--kernel"), "{failure}");
    }
}
