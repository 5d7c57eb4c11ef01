//! Builds the guest's init as a static program, which `src/host/initramfs.rs` embeds, compressed by xz.
//!
//! It is linked statically with glibc, because every Rust installation has the target of its host. It is built in a
//! separate target directory, because the outer cargo has locked its own. `LAMINA_GUEST_INIT_PROGRAM` names one that is
//! built already, for a host that has no linker for the target.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use lzma_rust2::{XzOptions, XzWriter};

fn main() {
    if required("CARGO_CFG_TARGET_OS") != "linux" {
        // Only Linux runs machines.
        println!("cargo::rerun-if-changed=build.rs");
        return;
    }
    let manifest = PathBuf::from(required("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(required("OUT_DIR"));
    let crates = ["guest-init/src", "guest-init/Cargo.toml", "guest-protocol/src", "guest-protocol/Cargo.toml"];
    let shared = ["../tree-packer/src", "../tree-packer/Cargo.toml"];
    for watched in crates.into_iter().chain(shared).chain(["../Cargo.toml", "../Cargo.lock", "build.rs"]) {
        println!("cargo::rerun-if-changed={}", manifest.join(watched).display());
    }
    println!("cargo::rerun-if-env-changed=LAMINA_GUEST_INIT_PROGRAM");
    let built = match env::var_os("LAMINA_GUEST_INIT_PROGRAM") {
        Some(program) => PathBuf::from(program),
        None => build(&manifest, &out.join("guest-init")),
    };
    let compressed = out.join("guest-init.xz");
    let program = std::fs::read(&built).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
    std::fs::write(&compressed, compress(&program)).unwrap_or_else(|error| panic!("{}: {error}", compressed.display()));
    println!("cargo::rustc-env=LAMINA_GUEST_INIT={}", compressed.display());
    fold_functions(&out);
}

/// Lets the linker fold functions that are the same, in a release build and where it can: 200 KB of the program.
fn fold_functions(out: &Path) {
    const FOLD: &str = "link-arg=-Wl,--icf=all";
    if required("PROFILE") != "release" {
        return;
    }
    let probe = out.join("probe.rs");
    std::fs::write(&probe, "fn main() {}").unwrap_or_else(|error| panic!("{}: {error}", probe.display()));
    let mut rustc = Command::new(required("RUSTC"));
    rustc.args(["--target", &required("TARGET"), "-C", FOLD, "-o"]).arg(out.join("probe")).arg(&probe);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    if rustc.output().is_ok_and(|output| output.status.success()) {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}

fn compress(program: &[u8]) -> Vec<u8> {
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(6)).expect("a preset of xz");
    writer.write_all(program).expect("memory takes it");
    writer.finish().expect("memory takes it")
}

/// Builds it and returns its path. It runs on the processor that the host has, so it has its architecture.
fn build(manifest: &Path, target_dir: &Path) -> PathBuf {
    let target = format!("{}-unknown-linux-gnu", required("CARGO_CFG_TARGET_ARCH"));
    let mut cargo = Command::new(required("CARGO"));
    cargo
        .args(["build", "--quiet", "--release", "--package", "guest-init", "--bin", "guest-init"])
        .args(["--target", &target, "--target-dir"])
        .arg(target_dir)
        .arg("--manifest-path")
        .arg(manifest.join("guest-init/Cargo.toml"));
    for (name, _) in env::vars_os() {
        // The settings of the outer build (clippy's wrapper, its profile and flags) must not affect this one.
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_")
            && text != "CARGO_HOME"
            && !text.starts_with("CARGO_NET")
            && !text.starts_with("CARGO_TARGET_")
            || text.starts_with("RUSTC_W")
            || text == "RUSTFLAGS"
        {
            cargo.env_remove(&name);
        }
    }
    cargo
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    let status = cargo.status().unwrap_or_else(|error| panic!("cannot run cargo for guest-init: {error}"));
    assert!(status.success(), "guest-init does not build: {status}");
    target_dir.join(target).join("release/guest-init")
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run me by cargo"))
}
