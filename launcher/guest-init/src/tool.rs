//! Init's own tools: what a host asks of a guest whose image may have no program for it. Each is a process of its own,
//! started by init from its own executable, with `argv` as here:
//!
//! | `argv` | does |
//! |---|---|
//! | `pack PATH NAME` | writes PATH as a tar stream in which it is called NAME |
//! | `unpack-into DIRECTORY` | reads a tar stream into DIRECTORY |
//! | `unpack-at PATH NAME` | reads a tar stream to PATH, or into it as NAME where it is a directory |

use std::io::{self, BufWriter};
use std::path::Path;

use guest_init::archive::{Packer, Target, unpack};

/// Runs the tool that the arguments name; gives its exit status.
pub(crate) fn run(arguments: &[String]) -> u8 {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["pack", path, name] => pack(Path::new(path), Path::new(name)),
        ["unpack-into", path] => unpack(io::stdin().lock(), &Target::Into(path.into()), true),
        ["unpack-at", path, name] => {
            unpack(io::stdin().lock(), &Target::At { path: path.into(), name: name.into() }, true)
        }
        unknown => Err(io::Error::other(format!("init has no tool {unknown:?}"))),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("lamina: {error}");
            1
        }
    }
}

fn pack(path: &Path, name: &Path) -> io::Result<()> {
    let mut packer = Packer::new(BufWriter::with_capacity(64 << 10, io::stdout().lock()), false);
    packer.tree(path, name)?;
    packer.finish()
}
