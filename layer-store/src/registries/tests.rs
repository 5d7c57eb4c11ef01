use super::*;

fn of(files: &[&str]) -> Registries {
    let mut registries = Registries::default();
    for file in files {
        registries.add(file, Path::new("registries.conf")).unwrap();
    }
    registries
}

fn names(references: &[Reference]) -> Vec<String> {
    references.iter().map(ToString::to_string).collect()
}

fn places(registries: &Registries, name: &str) -> Vec<String> {
    let sources = registries.sources(&name.parse().unwrap()).unwrap();
    let place = |endpoint: &Endpoint| {
        let insecure = if endpoint.is_insecure { " insecure" } else { "" };
        format!("{}{insecure}", endpoint.reference)
    };
    sources.iter().map(place).collect()
}

#[test]
fn a_name_without_a_registry_means_its_alias_or_is_searched() {
    let registries = of(&[
        "unqualified-search-registries = [\"docker.io\", \"quay.io\"]\n[aliases]\nfedora = \"registry.fedora.test/fedora\"\n\
         \"a/b\" = \"r.test/c\"\nold = \"r.test/old\"\n",
        "[aliases]\nold = \"\"\n",
    ]);
    let digest = format!("sha256:{}", "0".repeat(64));
    for (name, expected) in [
        ("fedora", &["registry.fedora.test/fedora:latest"][..]),
        ("fedora:40", &["registry.fedora.test/fedora:40"]),
        ("a/b", &["r.test/c:latest"]),
        ("old", &["docker.io/library/old:latest", "quay.io/old:latest"]),
        ("x/y:1", &["docker.io/x/y:1", "quay.io/x/y:1"]),
        ("r.test/x", &["r.test/x:latest"]),
        ("localhost/x", &["localhost/x:latest"]),
        ("localhost:5000/x", &["localhost:5000/x:latest"]),
    ] {
        assert_eq!(names(&registries.candidates(name).unwrap()), expected, "{name}");
    }
    let by_digest = registries.candidates(&format!("fedora@{digest}")).unwrap();
    assert_eq!(names(&by_digest), [format!("registry.fedora.test/fedora@{digest}")]);
    let both = registries.candidates(&format!("fedora:40@{digest}")).unwrap();
    assert_eq!(names(&both), [format!("registry.fedora.test/fedora:40@{digest}")]);
    assert_eq!(names(&of(&[]).candidates("debian").unwrap()), ["docker.io/library/debian:latest"]);
}

#[test]
fn enforcing_asks_for_a_choice_among_several() {
    let several = "short-name-mode = \"enforcing\"\nunqualified-search-registries = [\"a.test\", \"b.test\"]\n";
    let error = of(&[several]).candidates("x:1").unwrap_err().to_string();
    assert!(error.contains("a.test/x:1 or b.test/x:1"), "{error}");
    let one = "short-name-mode = \"enforcing\"\nunqualified-search-registries = [\"a.test\"]\n";
    assert_eq!(names(&of(&[one]).candidates("x:1").unwrap()), ["a.test/x:1"]);
}

#[test]
fn the_longest_prefix_decides_and_is_replaced_by_the_location() {
    let registries = of(&["\
[[registry]]
prefix = \"r.test\"
location = \"mirror.test:5000/all\"
[[registry]]
prefix = \"r.test/a\"
location = \"a.test\"
insecure = true
[[registry]]
location = \"plain.test/\"
[[registry]]
prefix = \"*.wild.test\"
insecure = true
"]);
    for (name, expected) in [
        ("r.test/x:1", "mirror.test:5000/all/x:1"),
        ("r.test/ab:1", "mirror.test:5000/all/ab:1"),
        ("r.test/a/b:1", "a.test/b:1 insecure"),
        ("r.test:5000/x:1", "mirror.test:5000/all:5000/x:1"),
        ("plain.test/x:1", "plain.test/x:1"),
        ("a.b.wild.test/x:1", "a.b.wild.test/x:1 insecure"),
        ("wild.test/x:1", "wild.test/x:1"),
        ("other.test/x:1", "other.test/x:1"),
    ] {
        if name == "r.test:5000/x:1" {
            assert!(registries.sources(&name.parse().unwrap()).is_err(), "a location with two ports is no name");
        } else {
            assert_eq!(places(&registries, name), [expected], "{name}");
        }
    }
}

#[test]
fn mirrors_come_first_if_they_serve_the_name() {
    let registries = of(&["\
[[registry]]
location = \"r.test\"
[[registry.mirror]]
location = \"all.test\"
insecure = true
[[registry.mirror]]
location = \"digests.test\"
pull-from-mirror = \"digest-only\"
[[registry.mirror]]
location = \"tags.test/r\"
pull-from-mirror = \"tag-only\"
"]);
    assert_eq!(places(&registries, "r.test/x:1"), ["all.test/x:1 insecure", "tags.test/r/x:1", "r.test/x:1"]);
    let digest = format!("@sha256:{}", "0".repeat(64));
    let expected =
        [format!("all.test/x{digest} insecure"), format!("digests.test/x{digest}"), format!("r.test/x{digest}")];
    assert_eq!(places(&registries, &format!("r.test/x{digest}")), expected);
    let target = registries.target(&"r.test/x:1".parse().unwrap()).unwrap();
    assert_eq!(target.reference.to_string(), "r.test/x:1", "a push goes to no mirror");
}

#[test]
fn what_is_blocked_is_refused_as_a_name_a_mirror_and_a_target() {
    let registries = of(&["[[registry]]\nlocation = \"bad.test\"\nblocked = true\n\
        [[registry]]\nprefix = \"r.test\"\nlocation = \"bad.test/r\"\n"]);
    for name in ["bad.test/x:1", "r.test/x:1"] {
        let error = registries.sources(&name.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("bad.test is blocked in registries.conf"), "{error}");
    }
    assert!(registries.target(&"bad.test/x".parse().unwrap()).is_err());
}

#[test]
fn a_later_file_replaces_what_it_has() {
    let registries = of(&[
        "unqualified-search-registries = [\"a.test\"]\n[[registry]]\nlocation = \"r.test\"\nblocked = true\n",
        "[[registry]]\nlocation = \"r.test\"\n",
        "[aliases]\nx = \"b.test/x\"\n",
    ]);
    assert_eq!(places(&registries, "r.test/x:1"), ["r.test/x:1"]);
    assert_eq!(names(&registries.candidates("y").unwrap()), ["a.test/y:latest"]);
}

#[test]
fn version_1_is_read_and_not_mixed_with_version_2() {
    let old = "[registries.search]\nregistries = ['a.test']\n[registries.insecure]\nregistries = ['b.test']\n\
        [registries.block]\nregistries = ['c.test']\n";
    let registries = of(&[old]);
    assert_eq!(names(&registries.candidates("x").unwrap()), ["a.test/x:latest"]);
    assert_eq!(places(&registries, "b.test/x:1"), ["b.test/x:1 insecure"]);
    assert!(registries.sources(&"c.test/x".parse().unwrap()).is_err());
    let mixed = format!("{old}[[registry]]\nlocation = \"d.test\"\n");
    for (text, cause) in [
        (mixed.as_str(), "version 1 and 2"),
        ("[[registry]]\nlocation = \"https://a.test\"\n", "leave out https://"),
        ("[[registry]]\ninsecure = true\n", "neither a prefix nor a location"),
        ("[[registry]]\nprefix = \"a.*.test\"\nlocation = \"b.test\"\n", "wildcard"),
        ("[[registry]]\nlocation = \"a.test\"\n[[registry.mirror]]\ninsecure = true\n", "has no location"),
        ("short-name-mode = \"odd\"\n", "short-name-mode"),
        ("[[registry]\n", ""),
    ] {
        let error = Registries::default().add(text, Path::new("x")).unwrap_err();
        assert!(error.contains(cause), "{error}");
    }
}
