//! Directories and files of the host in a container.

use crate::fixture::Containers;

#[test]
fn shares_are_read_only_nested_or_single_files() {
    let containers = Containers::new();
    let work = containers.session.work("shared");
    for (name, text) in
        [("site/index", "page"), ("inner/file", "inside"), ("one", "alone"), ("site/nested/x", "hidden")]
    {
        let path = work.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let chown = std::process::Command::new("chown").args(["-R", "lamina-test"]).arg(&work).status().unwrap();
    assert!(chown.success());
    let volume = |from: &str, to: &str| format!("{}:{to}", work.join(from).display());
    let (site, inner, one, own) = (
        volume("site", "/site"),
        volume("inner", "/site/nested:ro"),
        volume("one", "/etc/one:ro"),
        volume("site", "/new/place"),
    );
    let script = "
        cat /site/index /site/nested/file /etc/one; echo
        ! touch /site/nested/y 2>/dev/null; ! sh -c 'echo x >> /etc/one' 2>/dev/null
        echo written > /site/new; cat /new/place/new; stat -c '%u:%g' /site/new
        ls /etc/one*
    ";
    let seen = containers.ok(&["-v", &site, "-v", &inner, "-v", &one, "-v", &own], script);
    assert_eq!(seen, "pageinsidealone\nwritten\n0:0\n/etc/one\n");
    assert_eq!(std::fs::read(work.join("site/new")).unwrap(), b"written\n");
    containers.session.traces().assert_nothing_left();
}

#[test]
fn share_belongs_to_the_user_of_the_command() {
    let containers = Containers::new();
    let site = containers.session.work("site");
    let volume = format!("{}:/site", site.display());
    let script = "stat -c '%u:%g' /site; touch /site/mine; stat -c %u /etc/passwd";
    let seen = containers.run(&["-u", "33:33", "-v", &volume], &["/bin/sh", "-c", script]).succeeded().stdout;
    assert_eq!(seen, "33:33\n0\n");
    use std::os::unix::fs::MetadataExt;
    let (made, directory) = (site.join("mine").metadata().unwrap(), site.metadata().unwrap());
    assert_eq!(made.uid(), directory.uid(), "it is the user's own on the host");
    let other = format!("{}:/other:uid=7", site.display());
    let refused = containers.run(&["-u", "33:33", "-v", &volume, "-v", &other], &["true"]);
    assert!(refused.stderr.contains("all shares of a container have one owner"), "{refused}");
    containers.session.traces().assert_nothing_left();
}
