//! What cannot work is said, with what to do.

use end_to_end::programs::{built, reachable};
use end_to_end::{Actor, Finished, Session};

use super::fixture::{Node, base};

#[test]
fn a_pull_without_containerd_and_one_beside_another_store_fetch_nothing_into_it() {
    let node = Node::new();
    let image = node.push("one", &[base()]);
    let nowhere = node.session.work("nowhere").join("c.sock");
    let words = ["pull", &image, "--address"];
    let refused = Finished::of(node.lamina(&words).arg(&nowhere));
    refused.refused(&nowhere.display().to_string());
    assert!(node.layers().is_empty(), "nothing is fetched for nothing");
    let other = node.session.work("other");
    let mut command = node.lamina(&words);
    let refused = Finished::of(command.arg(node.session.directory().join("c.sock")).arg("--store").arg(&other));
    refused.refused("serves another store");
    let snapshots = node.ok(&["snapshot", "--snapshotter", "lamina", "ls"]);
    assert_eq!(snapshots.lines().count(), 1, "{snapshots}");
}

#[test]
fn a_second_snapshotter_and_one_of_an_ordinary_user_are_refused() {
    let node = Node::new();
    let at = |name: &str| node.session.directory().join(name).display().to_string();
    Finished::of(&mut node.lamina(&["serve", "--address", &at("s.sock")])).refused("another process listens there");
    let other = ["serve", "--address", &at("o.sock"), "--root", &at("snapshotter"), "--run", &at("other")];
    Finished::of(&mut node.lamina(&other)).refused("in use by another lamina-containerd");
    let user = Session::new(Actor::User);
    let program = reachable(&built("lamina-containerd"), &user.directory().join("bin"));
    Finished::of(user.command(&program).arg("serve")).refused("only root");
    Finished::of(node.lamina(&["serve"]).arg("--no-such-option")).refused_usage("--no-such-option");
}

#[test]
fn names_that_a_terminal_would_obey_are_escaped() {
    const HOSTILE: &str = "x\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}y";
    let user = Session::new(Actor::User);
    let program = reachable(&built("lamina-containerd"), &user.directory().join("bin"));
    for words in [
        &["pull", HOSTILE][..],
        &["pull", "debian", "--address", HOSTILE],
        &["pull", "debian", "--namespace", HOSTILE],
        &["pull", "debian", "--platform", HOSTILE],
        &[HOSTILE],
        &["serve", HOSTILE],
        &["--store", HOSTILE, "serve"],
    ] {
        let finished = Finished::of(user.command(&program).args(words));
        assert!(!finished.status.success(), "{finished}");
        let acts = |sign: char| sign.is_control() && sign != '\n' || sign == '\u{202e}';
        assert!(!finished.stderr.contains(acts) && finished.stdout.is_empty(), "{:?}", finished.stderr);
    }
}
