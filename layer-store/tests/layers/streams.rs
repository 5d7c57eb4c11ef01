//! The stream of one layer: in whatever form it arrives, the result is the same, and an error at any point ends it.

use std::io::{self, Read, Write};

use flate2::bufread::MultiGzDecoder;
use layer_store::{Digest, ExpectedLayer, IngestError, IngestedLayer, Store};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use test_support::{Random, noise};

/// A tar of several pieces that compresses to about a half.
fn tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for number in 0..40u64 {
        let content = [noise(number, 20_000), vec![b'x'; 20_000]].concat();
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, format!("file{number}"), content.as_slice()).expect("an entry");
    }
    builder.into_inner().expect("a tar")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let header = flate2::GzBuilder::new().filename("layer.tar").comment("a comment").extra(vec![1; 70]);
    let mut encoder = header.write(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("zstd")
}

/// A frame that decoders skip, as chunked and seekable zstd have it.
fn skippable(length: u8) -> Vec<u8> {
    [&[0x50, 0x2a, 0x4d, 0x18, length, 0, 0, 0], vec![7; length.into()].as_slice()].concat()
}

/// The tar in every form.
fn forms(tar: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let cuts = [&tar[..1], &tar[1..300_000], &tar[300_000..300_000], &tar[300_000..]];
    vec![
        ("plain", tar.to_vec()),
        ("gzip", gzip(tar)),
        ("gzip of several members", cuts.iter().flat_map(|cut| gzip(cut)).collect()),
        ("zstd", zstd(tar)),
        ("zstd of several frames", cuts.iter().flat_map(|cut| [skippable(9), zstd(cut)].concat()).collect()),
        ("zstd that ends with what is skipped", [zstd(tar), skippable(0), skippable(200)].concat()),
    ]
}

/// Returns at most a few bytes at once, of a number that changes.
struct Dripping<'a> {
    bytes: &'a [u8],
    lengths: std::iter::Cycle<std::slice::Iter<'static, usize>>,
}

impl<'a> Dripping<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, lengths: [1, 3, 7, 100_000, 1, 4096, 13].iter().cycle() }
    }
}

impl Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.lengths.next().copied().unwrap_or(1).min(buffer.len());
        self.bytes.read(&mut buffer[..most])
    }
}

struct Place {
    directory: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        Self { directory, store }
    }

    fn ingest(&self, source: &mut (dyn Read + Send)) -> Result<IngestedLayer, IngestError> {
        self.store.layers().ingest(source, &ExpectedLayer::default())
    }

    /// Checks that a failed import left nothing, after the process's own directory is gone.
    fn assert_empty(self) {
        drop(self.store);
        for place in ["layers/sha256", "tmp"] {
            let there = std::fs::read_dir(self.directory.path().join(place)).map_or(0, Iterator::count);
            assert_eq!(there, 0, "{place}");
        }
    }
}

/// Checks that a layer arrives as the same tar with the same digests in every form.
fn assert_every_form_is_the_same(tar: &[u8]) {
    for (form, bytes) in forms(tar) {
        for drips in [false, true] {
            let place = Place::new();
            let made = match drips {
                true => place.ingest(&mut Dripping::new(&bytes)),
                false => place.ingest(&mut bytes.as_slice()),
            };
            let made = made.unwrap_or_else(|error| panic!("{form}: {error}"));
            assert_eq!(made.diff_id.0, Digest::of(tar), "{form}");
            assert_eq!(made.compressed_digest, Digest::of(&bytes), "{form}");
            assert_eq!(made.blob_bytes, tar.len() as u64, "{form}");
            let blob = place.directory.path().join("layers/sha256").join(made.diff_id.0.hex()).join("blob");
            assert!(std::fs::read(blob).expect("the blob") == tar, "{form}");
        }
    }
}

#[test]
fn a_layer_is_the_same_in_every_form_and_on_any_number_of_processors() {
    let tar = tar();
    assert_every_form_is_the_same(&tar);
    let all = sched_getaffinity(None).expect("the processors");
    let first = (0..CpuSet::MAX_CPU).find(|number| all.is_set(*number)).expect("a processor");
    let mut one = CpuSet::new();
    one.set(first);
    // New threads have the processors of the thread that starts them.
    sched_setaffinity(None, &one).expect("one processor");
    assert_every_form_is_the_same(&tar);
}

/// What the decoders say about the bytes without an import.
fn reference(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut tar = Vec::new();
    let read = match bytes {
        [0x1f, 0x8b, ..] => MultiGzDecoder::new(bytes).read_to_end(&mut tar),
        _ => zstd::stream::read::Decoder::with_buffer(bytes).and_then(|mut decoder| decoder.read_to_end(&mut tar)),
    };
    read.map(|_| tar).map_err(|error| error.to_string())
}

/// Damages a stream: cuts it off, adds to it, or changes a byte.
fn damaged(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let place = usize::try_from(random.bits() % bytes.len() as u64).expect("a place");
    match random.bits() % 4 {
        0 => bytes.truncate(place.max(4)),
        1 => bytes.extend(noise(random.bits(), 1 + place % 70_000)),
        2 => bytes.extend(vec![0; 1 + place % 700]),
        // The first bytes tell the compression.
        _ => bytes[place.max(4)] ^= 1 << (random.bits() % 8),
    }
    bytes
}

#[test]
fn a_damaged_stream_is_what_its_decoder_says() {
    let (tar, mut random) = (tar(), Random::new(17));
    let place = Place::new();
    let forms: Vec<_> = forms(&tar).into_iter().filter(|(form, _)| *form != "plain").collect();
    for round in 0..200 {
        let (form, bytes) = &forms[round % forms.len()];
        let bytes = damaged(bytes.clone(), &mut random);
        let expected = reference(&bytes);
        match (place.ingest(&mut bytes.as_slice()), &expected) {
            (Ok(made), Ok(tar)) => assert_eq!(made.diff_id.0, Digest::of(tar), "{form}, round {round}"),
            (Err(IngestError::Source(error)), Err(expected)) => {
                assert_eq!(error.to_string(), *expected, "{form}, round {round}");
            }
            // What came before the damage was noticed is no tar.
            (Err(IngestError::Tar(_)), _) => {}
            (made, expected) => {
                let expected = expected.as_ref().map(Vec::len);
                panic!("{form}, round {round}: {made:?}, but its decoder says {expected:?}");
            }
        }
    }
}

#[test]
fn an_error_of_the_source_ends_an_import_wherever_it_occurs() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the cable is cut"))
        }
    }
    for (form, bytes) in forms(&tar()) {
        for length in [0, 1, 9, 10, 5_000, 300_000, bytes.len()] {
            let place = Place::new();
            let error = place.ingest(&mut bytes[..length.min(bytes.len())].chain(Failing)).expect_err(form);
            assert_eq!(error.to_string(), "the cable is cut", "{form} after {length} bytes");
            place.assert_empty();
        }
    }
}

#[test]
fn what_is_no_tar_ends_an_import_that_would_go_on() {
    struct Counted<R>(R, u64);
    impl<R: Read> Read for Counted<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.0.read(buffer)?;
            self.1 += read as u64;
            Ok(read)
        }
    }
    let garbage = noise(1, 1 << 20);
    let member = gzip(&garbage);
    let endless: [(&str, &[u8]); 2] = [("plain", &garbage), ("gzip", &member)];
    for (form, bytes) in endless {
        let place = Place::new();
        let mut again = std::iter::repeat(bytes);
        let forever = io::BufReader::new(Repeated { now: &[], next: &mut again });
        let mut source = Counted(forever, 0);
        let error = place.ingest(&mut source).expect_err(form);
        assert!(matches!(error, IngestError::Tar(_)), "{form}: {error}");
        assert!(source.1 < 32 << 20, "{form}: read on for {} bytes", source.1);
        place.assert_empty();
    }
}

/// The same bytes without an end.
struct Repeated<'a, I> {
    now: &'a [u8],
    next: I,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Read for Repeated<'a, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.now.is_empty() {
            self.now = self.next.next().unwrap_or_default();
        }
        self.now.read(buffer)
    }
}
