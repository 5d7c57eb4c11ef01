//! Mounts a base of the store: `composefs-fuse BASE DIR`.

mod program;
mod serving;

fn main() -> std::process::ExitCode {
    program::run()
}
