//! Mounts a base of the store: `composefs-fuse BASE DIR`.

#[cfg(target_os = "linux")]
mod program;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    program::run()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "composefs-fuse: mounting is not supported on this system: only Linux's FUSE is served; run it in a Linux VM"
    );
    std::process::ExitCode::FAILURE
}
