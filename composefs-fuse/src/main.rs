//! Mounts a base of the store: `composefs-fuse BASE DIR`.

#[cfg(target_os = "linux")]
mod program;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    program::run()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("composefs-fuse: only Linux's FUSE is served so far; on other hosts run it in a Linux VM");
    std::process::ExitCode::FAILURE
}
