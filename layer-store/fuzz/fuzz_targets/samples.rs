//! Small tars with something of everything, to start from.

/// One header block.
fn header(name: &str, kind: u8, size: usize, link: &str) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000755");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000007");
    block[148..156].fill(b' ');
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn entry(out: &mut Vec<u8>, name: &str, kind: u8, body: &[u8], link: &str) {
    out.extend(header(name, kind, body.len(), link));
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// One PAX record: its length in decimal counts itself (POSIX.1-2017, pax, "pax Extended Header").
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

/// A lower and an upper layer.
pub fn layers() -> [Vec<u8>; 2] {
    let (mut lower, mut upper) = (Vec::new(), Vec::new());
    entry(&mut lower, "usr/", b'5', b"", "");
    entry(&mut lower, "usr/bin/a", b'0', b"content", "");
    entry(&mut lower, "usr/bin/b", b'1', b"", "usr/bin/a");
    entry(&mut lower, "x", b'x', &record("SCHILY.xattr.user.k", b"v\n\0\xff .."), "");
    entry(&mut lower, "usr/only/deep/file", b'0', b"1", "");
    entry(&mut lower, "lib", b'2', b"", "usr/lib");
    let sparse: [(&str, &[u8]); 4] = [("major", b"1"), ("minor", b"0"), ("realsize", b"9999"), ("name", b"s")];
    let sparse = sparse.map(|(key, value)| record(&format!("GNU.sparse.{key}"), value)).concat();
    entry(&mut lower, "sparse-header", b'x', &sparse, "");
    let mut map = b"1\n4096\n3\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"abc");
    entry(&mut lower, "s", b'0', &map, "");
    entry(&mut upper, "usr/bin/c", b'0', b"new", "");
    entry(&mut upper, "usr/bin/.wh.b", b'0', b"", "");
    entry(&mut upper, "usr/only/.wh..wh..opq", b'0', b"", "");
    entry(&mut upper, "usr/only/fresh", b'1', b"", "usr/bin/a");
    entry(&mut upper, "null", b'3', b"", "");
    for tar in [&mut lower, &mut upper] {
        tar.resize(tar.len() + 1024, 0);
    }
    [lower, upper]
}
