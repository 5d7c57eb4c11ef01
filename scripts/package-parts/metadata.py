"""Facts about the release, from `cargo metadata`: `version`, or `sbom` for a CycloneDX bill of materials (version 1.5)."""

import json
import subprocess
import sys

TARGET = "x86_64-unknown-linux-gnu"


def metadata():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def in_the_programs(document, roots):
    """The ids of the packages that the programs are built from: without dependencies of tests."""
    nodes = {node["id"]: node for node in document["resolve"]["nodes"]}
    found, waiting = set(), list(roots)
    while waiting:
        package = waiting.pop()
        if package in found:
            continue
        found.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return found, nodes


def component(package):
    url = f"pkg:cargo/{package['name']}@{package['version']}"
    entry = {"type": "library", "bom-ref": url, "name": package["name"], "version": package["version"], "purl": url}
    if package["license"]:
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    return entry


def sbom(document, root, others):
    packages = {package["id"]: package for package in document["packages"]}
    used, nodes = in_the_programs(document, [package["id"] for package in (root, *others)])
    reference = lambda package: f"pkg:cargo/{packages[package]['name']}@{packages[package]['version']}"
    ordered = sorted(used, key=reference)
    program = component(root) | {"type": "application", "name": "lamina"}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": program},
        "components": [component(packages[package]) for package in ordered if package != root["id"]],
        "dependencies": [
            {"ref": reference(package), "dependsOn": sorted({reference(to["pkg"]) for to in nodes[package]["deps"] if to["pkg"] in used})}
            for package in ordered
        ],
    }


def main():
    document = metadata()
    named = {package["name"]: package for package in document["packages"]}
    root, others = named["launcher"], [named["lamina-containerd"]]
    if sys.argv[1] == "version":
        print(root["version"])
    else:
        json.dump(sbom(document, root, others), sys.stdout, indent=1)
        print()


main()
