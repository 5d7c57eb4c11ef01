//! Times what `scripts/bench serve` does to a tree. This is a compiled program, so it measures the file system and not
//! an interpreter.
//!
//! ```text
//! tree-load list ROOT                          print directories and regular files: `d PATH` or `f SIZE PATH`
//! tree-load find ROOT THREADS                  read every directory, and stat every entry
//! tree-load stat ROOT LIST COUNT               stat COUNT random paths
//! tree-load missing ROOT LIST COUNT            look up COUNT missing names, 16 in each of 512 directories
//! tree-load small ROOT LIST COUNT THREADS      open, read and close COUNT different files up to 64 KiB, in random order
//! tree-load sequential FILE                    read from start to end, 128 KiB at a time
//! tree-load random FILE COUNT                  read COUNT random pages of 4 KiB with pread
//! tree-load mapped FILE COUNT                  the same, through a memory mapping
//! ```
//!
//! Prints the seconds and the number of operations, separated by a space. The random numbers are the same each time.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

/// Bytes of the largest file that counts as small.
const SMALL: u64 = 64 << 10;
/// Bytes that coreutils read at once when they copy a file.
const COPY: usize = 128 << 10;
const PAGE: u64 = 4096;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["list", root] = words[..] {
        return list(Path::new(root));
    }
    let (seconds, count) = match words[..] {
        ["find", root, threads] => find(Path::new(root), threads.parse()?)?,
        ["stat", root, listed, count] => stat(Path::new(root), &Listed::read(listed)?, count.parse()?)?,
        ["missing", root, listed, count] => missing(Path::new(root), &Listed::read(listed)?, count.parse()?)?,
        ["small", root, listed, count, threads] => {
            small(Path::new(root), &Listed::read(listed)?, count.parse()?, threads.parse()?)?
        }
        ["sequential", file] => sequential(file)?,
        ["random", file, count] => random(file, count.parse()?)?,
        ["mapped", file, count] => mapped(file, count.parse()?)?,
        _ => bail!("usage: see the top of tests/src/bin/tree-load.rs"),
    };
    println!("{seconds:.6} {count}");
    Ok(())
}

/// xorshift: the same numbers in every run and for every tree.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap_or(0)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

const SEED: Random = Random(0x9e37_79b9_7f4a_7c15);

/// The paths of a tree, below its root.
struct Listed {
    directories: Vec<PathBuf>,
    files: Vec<(u64, PathBuf)>,
}

impl Listed {
    fn read(path: &str) -> Result<Self> {
        let text = std::fs::read(path).context(path.to_owned())?;
        let mut listed = Self { directories: Vec::new(), files: Vec::new() };
        for line in text.split(|&byte| byte == b'\n') {
            let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
            match line {
                [b'd', b' ', name @ ..] => listed.directories.push(path(name)),
                [b'f', b' ', rest @ ..] => {
                    let end = rest.iter().position(|&byte| byte == b' ').context("a size")?;
                    let size = std::str::from_utf8(&rest[..end])?.parse()?;
                    listed.files.push((size, path(&rest[end + 1..])));
                }
                _ => {}
            }
        }
        ensure!(!listed.files.is_empty(), "{path}: no files listed");
        Ok(listed)
    }
}

fn list(root: &Path) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        let mut entries = std::fs::read_dir(root.join(&directory))?.collect::<std::io::Result<Vec<_>>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = directory.join(entry.file_name());
            let kind = entry.file_type()?;
            if path.as_os_str().as_bytes().contains(&b'\n') {
                continue;
            }
            if kind.is_dir() {
                out.write_all(&[b"d ", path.as_os_str().as_bytes(), b"\n"].concat())?;
                open.push(path);
            } else if kind.is_file() {
                write!(out, "f {} ", entry.metadata()?.len())?;
                out.write_all(&[path.as_os_str().as_bytes(), b"\n"].concat())?;
            }
        }
    }
    Ok(())
}

/// All threads take directories from one shared stack.
fn find(root: &Path, threads: usize) -> Result<(f64, u64)> {
    let open = Mutex::new(vec![root.to_owned()]);
    let (unfinished, seen) = (AtomicUsize::new(1), AtomicU64::new(0));
    let walk = || -> Result<()> {
        while unfinished.load(Relaxed) > 0 {
            let Some(directory) = open.lock().ok().and_then(|mut open| open.pop()) else {
                std::thread::yield_now();
                continue;
            };
            let below = look(&directory, &seen);
            if let (Ok(below), Ok(mut open)) = (&below, open.lock()) {
                unfinished.fetch_add(below.len(), Relaxed);
                open.extend_from_slice(below);
            }
            unfinished.fetch_sub(1, Relaxed);
            below?;
        }
        Ok(())
    };
    let seconds = timed(threads, &walk)?;
    Ok((seconds, seen.into_inner()))
}

/// Reads one directory and asks for the status of every entry, as `find -size` does. Returns the directories in it.
fn look(directory: &Path, seen: &AtomicU64) -> Result<Vec<PathBuf>> {
    let fd = openat(CWD, directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| directory.display().to_string())?;
    let mut below = Vec::new();
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let status = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        seen.fetch_add(1, Relaxed);
        if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
            below.push(directory.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
        }
    }
    Ok(below)
}

fn stat(root: &Path, listed: &Listed, count: usize) -> Result<(f64, u64)> {
    let mut random = SEED;
    let paths: Vec<PathBuf> =
        (0..count).map(|_| root.join(&listed.files[random.below(listed.files.len())].1)).collect();
    let begin = Instant::now();
    for path in &paths {
        statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).with_context(|| path.display().to_string())?;
    }
    Ok((begin.elapsed().as_secs_f64(), count as u64))
}

fn missing(root: &Path, listed: &Listed, count: usize) -> Result<(f64, u64)> {
    let mut random = SEED;
    let directories: Vec<&PathBuf> =
        (0..512).map(|_| &listed.directories[random.below(listed.directories.len())]).collect();
    let paths: Vec<PathBuf> = (0..count)
        .map(|_| root.join(directories[random.below(512)]).join(format!("not-there-{}", random.below(16))))
        .collect();
    let begin = Instant::now();
    for path in &paths {
        let answer = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW);
        ensure!(matches!(answer, Err(rustix::io::Errno::NOENT)), "{}: {answer:?}", path.display());
    }
    Ok((begin.elapsed().as_secs_f64(), count as u64))
}

fn small(root: &Path, listed: &Listed, count: usize, threads: usize) -> Result<(f64, u64)> {
    let mut files: Vec<&Path> =
        listed.files.iter().filter(|(size, _)| *size <= SMALL).map(|(_, path)| path.as_path()).collect();
    let mut random = SEED;
    random.shuffle(&mut files);
    let paths: Vec<PathBuf> = files.iter().take(count).map(|path| root.join(path)).collect();
    let next = AtomicUsize::new(0);
    let read = || -> Result<()> {
        let mut buffer = vec![0; COPY];
        while let Some(path) = paths.get(next.fetch_add(1, Relaxed)) {
            let mut file = File::open(path).with_context(|| path.display().to_string())?;
            while file.read(&mut buffer)? > 0 {}
        }
        Ok(())
    };
    Ok((timed(threads, &read)?, paths.len() as u64))
}

fn sequential(path: &str) -> Result<(f64, u64)> {
    let mut buffer = vec![0; COPY];
    let begin = Instant::now();
    let mut file = File::open(path)?;
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((begin.elapsed().as_secs_f64(), bytes)),
            read => bytes += read as u64,
        }
    }
}

/// Offsets of whole pages; some pages occur more than once.
fn pages(file: &File, count: usize) -> Result<Vec<u64>> {
    let pages = usize::try_from(file.metadata()?.len() / PAGE)?;
    let mut random = SEED;
    Ok((0..count).map(|_| random.below(pages) as u64 * PAGE).collect())
}

fn random(path: &str, count: usize) -> Result<(f64, u64)> {
    let file = File::open(path)?;
    let pages = pages(&file, count)?;
    let mut buffer = [0; PAGE as usize];
    let begin = Instant::now();
    for page in &pages {
        file.read_exact_at(&mut buffer, *page)?;
    }
    Ok((begin.elapsed().as_secs_f64(), count as u64))
}

#[allow(unsafe_code)]
fn mapped(path: &str, count: usize) -> Result<(f64, u64)> {
    let file = File::open(path)?;
    let pages = pages(&file, count)?;
    let begin = Instant::now();
    // SAFETY: the file is on a read-only mount, or in a tree that only the benchmark uses: no process changes it.
    let map = unsafe { memmap2::Mmap::map(&file) }?;
    for &page in &pages {
        std::hint::black_box(map[usize::try_from(page)?]);
    }
    Ok((begin.elapsed().as_secs_f64(), count as u64))
}

/// Runs `work` in threads. Returns the seconds until all have ended.
fn timed(threads: usize, work: &(impl Fn() -> Result<()> + Sync)) -> Result<f64> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread has panicked")))
    })?;
    Ok(begin.elapsed().as_secs_f64())
}
