//! Prints a tree in the text form of `end_to_end::tree`. Tests run it in a mount or a guest.

use std::path::PathBuf;
use std::process::ExitCode;

use end_to_end::TreeDump;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(root), output, None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: tree-dump DIR [OUTPUT]");
        return ExitCode::from(2);
    };
    let written = TreeDump::of(&root).and_then(|dump| match output {
        Some(output) => std::fs::write(output, dump.to_string()),
        None => std::io::Write::write_all(&mut std::io::stdout(), dump.to_string().as_bytes()),
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tree-dump: {error}");
            ExitCode::FAILURE
        }
    }
}
