//! Extended headers before entries: as many as are useful, and no more.

use layer_store::{ExpectedLayer, Store};

/// Returns why a store refuses a tar.
fn refusal(tar: &[u8]) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("a store");
    store.layers().ingest(&mut &*tar, &ExpectedLayer::default()).expect_err("a refusal").to_string()
}

/// An extended header with its body.
fn extension(kind: tar::EntryType, body: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path("extension").expect("a name");
    header.set_size(body.len() as u64);
    header.set_cksum();
    let padding = body.len().next_multiple_of(512) - body.len();
    [header.as_bytes(), body, &vec![0; padding]].concat()
}

/// One record of such a header, `bytes` long.
fn record(keyword: &str, length: usize) -> Vec<u8> {
    let start = format!("{length} {keyword}=");
    [start.as_bytes(), &vec![b'x'; length - start.len() - 1], b"\n"].concat()
}

#[test]
fn headers_that_no_entry_follows_are_refused_before_they_pile_up() {
    use tar::EntryType as T;
    let path = record("path", 1 << 20);
    let comment = record("comment", 100);
    for (kind, body, count) in [
        (T::XHeader, &path[..], 5),
        (T::XGlobalHeader, &path, 5),
        (T::GNULongName, &path, 5),
        (T::XHeader, &[], 9_000),
        (T::XGlobalHeader, &comment, 9_000),
    ] {
        let refused = refusal(&extension(kind, body).repeat(count));
        assert!(refused.contains("extended headers"), "{kind:?}: {refused}");
    }
}

#[test]
fn attributes_of_many_headers_are_refused_by_the_name_of_the_entry() {
    let headers: Vec<u8> = (0..3)
        .flat_map(|number| {
            extension(tar::EntryType::XGlobalHeader, &record(&format!("SCHILY.xattr.user.{number}"), 400_000))
        })
        .collect();
    let refused = refusal(&[headers, crate::fixture::tar(&[crate::fixture::Node::File("named", "")])].concat());
    assert!(refused.contains("named") && refused.contains("extended attributes"), "{refused}");
}
