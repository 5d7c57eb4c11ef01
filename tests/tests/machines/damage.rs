//! A layer that is damaged while a machine has its root on it.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;

use end_to_end::layout::Layer;
use end_to_end::{Engine, Finished, on_engines};
use serde_json::json;
use test_support::noise;

use super::fixture::Machines;

on_engines! {
    [qemu cloud_hypervisor]: blocks_that_a_layer_has_lost_are_io_errors_and_everything_else_is_read;
}

/// What the server notices is that a tar ends too early. Bytes that have changed are found by `lamina verify` alone.
fn blocks_that_a_layer_has_lost_are_io_errors_and_everything_else_is_read(engine: Engine) {
    const KEPT: usize = 100_000;
    let [whole, cut, lost] = [noise(1, 300_000), noise(2, 300_000), noise(3, 5000)];
    let layer = Layer::of_files(&[("srv/whole", &whole), ("srv/cut", &cut), ("srv/lost", &lost)]);
    let machines = Machines::with_config(engine, std::slice::from_ref(&layer), &json!({}));
    let session = &machines.session;
    machines.sleeper("m", &["--backend", "block", "--network", "none"]);
    let sum = |command: &str| {
        session.run(["exec", "m", "--", "/bin/bash", "-o", "pipefail", "-c", &format!("{command} | sha256sum")])
    };
    let is_of = |found: Finished, content: &[u8]| {
        let expected = layer_store::Digest::of(content).hex();
        assert!(found.succeeded().stdout.starts_with(&expected), "other bytes");
    };
    let start = layer.tar().windows(64).position(|window| window == &cut[..64]).expect("the file's content");
    let blob = session.store().join(layer.diff_id().replace("sha256:", "layers/sha256/")).join("blob");
    std::fs::set_permissions(&blob, Permissions::from_mode(0o644)).unwrap();
    File::options().write(true).open(&blob).and_then(|blob| blob.set_len((start + KEPT) as u64)).unwrap();

    let is_refused = |found: Finished| {
        assert!(!found.status.success() && found.stderr.contains("Input/output error"), "{found}");
    };
    let block = |number: usize, flag| sum(&format!("dd if=/srv/cut bs=4096 count=1 skip={number} {flag} status=none"));
    // Through the guest's cache, which reads ahead, and past it.
    is_of(block(5, ""), &cut[5 * 4096..][..4096]);
    is_refused(sum("cat /srv/cut"));
    is_refused(sum("cat /srv/lost"));
    // The blocks of the file that are there, and the one of which a part is missing.
    for number in [0, 5, KEPT / 4096 - 1] {
        is_of(block(number, "iflag=direct"), &cut[number * 4096..][..4096]);
    }
    is_refused(block(KEPT / 4096, "iflag=direct"));
    // What was not read before: a file of the same layer, and some of another.
    is_of(sum("cat /srv/whole"), &whole);
    session.exec("m", "md5sum /usr/bin/dpkg").succeeded();
    let verified = session.run(["verify"]);
    assert!(!verified.status.success() && verified.to_string().contains(&layer.diff_id()), "{verified}");
    session.ok(["rm", "--force", "m"]);
    session.traces().assert_nothing_left();
}
