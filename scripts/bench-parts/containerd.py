"""Measures containerd on our snapshotter beside its own, overlayfs: the same containerd, images, registry and runtime.

Each snapshotter has a containerd of its own. With ours, `lamina containerd pull` brings images in; with overlayfs, `ctr image pull`.
"""

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import containers
import report

TOGETHER = 50
BIG, REBUILT, WORK_IMAGE = "bench:1", "bench-rebuilt:1", "work:1"

# Run in a container. The best of six, with everything in the caches.
MEASURE = """
import json, os, shutil, subprocess, sys, time
def best(prepare, command):
    taken = []
    for _ in range(7):
        subprocess.run(["sh", "-c", prepare], check=True)
        begin = time.monotonic()
        subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.monotonic() - begin)
    return min(taken[1:])
print(json.dumps({name: best(*commands) for name, commands in json.loads(sys.argv[1]).items()}))
"""
WORKLOADS = {
    "find": ("true", "find / -xdev"),
    "npm ci": (f"rm -rf /srv/web /srv/cache; {containers.PREPARE}", containers.INSTALL["npm ci"]),
}


class Registry:
    """docker-registry with the images, without TLS."""

    def __init__(self, directory, images):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"localhost:{free.getsockname()[1]}"
        config = os.path.join(directory, "registry.yml")
        with open(config, "w") as file:
            file.write(f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/registry}}}}\nhttp: {{addr: '127.0.0.1:{self.address.split(':')[1]}'}}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait(lambda: subprocess.run(["skopeo", "list-tags", "--tls-verify=false", f"docker://{self.address}/none"], capture_output=True, text=True).stderr.find("refused") < 0)
        for name in (BIG, REBUILT, WORK_IMAGE):
            layout = os.path.join(os.path.realpath(images), name.split(":")[0])
            check(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{self.name(name)}"])

    def name(self, image):
        return f"{self.address}/{image}"


class Node:
    """A containerd whose default snapshotter is the one that is measured."""

    def __init__(self, directory, programs, snapshotter, number):
        self.directory = os.path.join(directory, f"{snapshotter}-{number}")
        self.snapshotter, self.programs = snapshotter, programs
        os.mkdir(self.directory)
        at = self.at
        with open(at("config.toml"), "w") as file:
            file.write(
                f'version = 2\nroot = "{at("containerd")}"\nstate = "{at("run")}"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
                f'[grpc]\naddress = "{at("c.sock")}"\n[ttrpc]\naddress = "{at("t.sock")}"\n'
                f'[proxy_plugins.lamina]\ntype = "snapshot"\naddress = "{at("s.sock")}"\n'
            )
        self.environment = {**os.environ, "LAMINA_STORE": at("store"), "HOME": self.directory, "CONTAINERD_ADDRESS": at("c.sock")}
        self.processes = []
        if snapshotter == "lamina":
            self.start([self.program("lamina"), "containerd", "serve", "--address", at("s.sock"), "--root", at("snapshotter"), "--run", at("views")])
            wait(lambda: os.path.exists(at("s.sock")))
        self.start(["containerd", "--config", at("config.toml")])
        wait(lambda: self.ctr("snapshot", "--snapshotter", self.snapshotter, "ls", expected=None) is not None)

    def at(self, name):
        return os.path.join(self.directory, name)

    def program(self, name):
        return os.path.abspath(os.path.join(self.programs, name))

    def start(self, command):
        with open(self.at("log"), "a") as log:
            self.processes.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def ctr(self, *words, expected=0):
        done = subprocess.run(["ctr", *words], env=self.environment, capture_output=True, text=True)
        if done.returncode and expected is not None:
            sys.exit(f"error: ctr {' '.join(words)}: {done.stderr.strip()}\n{open(self.at('log')).read()[-2000:]}")
        return done.stdout if done.returncode == 0 else None

    def pull(self, name):
        if self.snapshotter == "lamina":
            check([self.program("lamina"), "containerd", "pull", name], self.environment)
        else:
            self.ctr("image", "pull", "--plain-http", "--snapshotter", self.snapshotter, name)

    def run_words(self, name, identity, *command, options=("--rm",)):
        return ["run", "--snapshotter", self.snapshotter, "--runc-root", self.at("runc"), *options, name, identity, *command]

    def run(self, name, *command, options=("--rm",)):
        return self.ctr(*self.run_words(name, f"bench-{time.monotonic_ns()}", *command, options=options))

    def disk_bytes(self):
        """What is stored: without the sockets, logs and mounts."""
        return sum(disk_bytes(self.at(name)) for name in ("containerd", "store", "snapshotter"))

    def memory_mb(self):
        """The proportional memory of the processes that the snapshotter adds: its own, and the servers of views."""
        pids = [name for name in os.listdir("/proc") if name.isdigit() and self.at("store").encode() in environment_of(name)]
        pids = [pid for pid in pids if os.path.basename(link(f"/proc/{pid}/exe")).startswith("lamina")]
        pss = lambda pid: next(int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup") if line.startswith("Pss:"))
        return sum(pss(pid) for pid in pids) / 1024

    def end(self):
        for container in (self.ctr("task", "ls", "--quiet", expected=None) or "").split():
            self.ctr("task", "rm", "--force", container, expected=None)
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.wait()
        for line in reversed(open("/proc/self/mounts").readlines()):
            point = line.split()[1]
            if point.startswith(self.directory + "/"):
                subprocess.run(["umount", "--lazy", point], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""


def environment_of(pid):
    try:
        return open(f"/proc/{pid}/environ", "rb").read()
    except OSError:
        return b""


def check(command, environment=None):
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def wait(holds):
    end = time.monotonic() + 60
    while not holds():
        if time.monotonic() > end:
            sys.exit("error: a server does not start")
        time.sleep(0.05)


def seconds(work):
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def disk_bytes(directory):
    return sum(os.lstat(os.path.join(root, name)).st_blocks * 512 for root, names, files in os.walk(directory) for name in names + files)


def forget():
    """Empties the kernel's caches."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def one_round(directory, programs, registry, snapshotter, number):
    """Returns the figures of one node, by name."""
    node, figures = Node(directory, programs, snapshotter, number), {}
    name = registry.name
    try:
        def pull_and_start(image):
            node.pull(name(image))
            node.run(name(image), "true")
        forget()
        figures["first"] = seconds(lambda: pull_and_start(BIG))
        before = node.disk_bytes()
        figures["disk"] = before / 1e6
        figures["second pull"] = seconds(lambda: node.pull(name(REBUILT)))
        figures["second"] = figures["second pull"] + seconds(lambda: node.run(name(REBUILT), "true"))
        figures["second disk"] = (node.disk_bytes() - before) / 1e6
        figures["start"] = min(seconds(lambda: node.run(name(BIG), "true")) for _ in range(10)) * 1000
        words = [node.run_words(name(BIG), f"together-{each}", "true") for each in range(TOGETHER)]
        def together():
            started = [subprocess.Popen(["ctr", *each], env=node.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for each in words]
            if any([one.wait() for one in started]):
                sys.exit(f"error: not all of {TOGETHER} containers ended well")
        figures["together"] = seconds(together)
        figures["memory"] = node.memory_mb()
        node.pull(name(WORK_IMAGE))
        options = ("--rm", "--mount", f"type=bind,src={os.path.join(directory, 'files')},dst=/files,options=rbind:ro")
        done = json.loads(node.run(name(WORK_IMAGE), "python3", "-c", MEASURE, json.dumps(WORKLOADS), options=options))
        figures.update({workload: taken * 1000 for workload, taken in done.items()})
        return figures
    finally:
        node.end()


def top_layer_mb(images, image):
    """The length of the tar of an image's top layer."""
    layout = os.path.join(os.path.realpath(images), image.split(":")[0])
    blob = lambda digest: os.path.join(layout, "blobs", digest.replace(":", "/"))
    manifest = json.load(open(blob(json.load(open(os.path.join(layout, "index.json")))["manifests"][0]["digest"])))
    with gzip.open(blob(manifest["layers"][-1]["digest"])) as tar:
        return tar.seek(0, os.SEEK_END) / 1e6


def rows(measured, top):
    ours, theirs = measured["lamina"], measured["overlayfs"]
    of = lambda side, name: [figures[name] for figures in side]
    ratio = lambda name: [a / b for a, b in zip(of(ours, name), of(theirs, name))]
    both = lambda title, name, unit: [report.Row(f"{title}, {who}", unit, of(side, name)) for who, side in (("lamina", ours), ("overlayfs", theirs))]
    return [
        *both("pull of 370 MB and first container", "first", "s"),
        *both("disk after it", "disk", "MB"),
        *both("second image with a new top layer: pull", "second pull", "s"),
        report.Row("second image: pull, lamina / overlayfs", "x", ratio("second pull"), 0.1),
        *both("second image: pull and first container", "second", "s"),
        *both("second image: disk", "second disk", "MB"),
        report.Row("second image: disk, lamina / tar of its top layer", "x", [value / top for value in of(ours, "second disk")], 1.0),
        *both("container start", "start", "ms"),
        report.Row("container start, lamina / overlayfs", "x", ratio("start"), 1.2),
        *both(f"{TOGETHER} containers at once", "together", "s"),
        report.Row("memory of the snapshotter and of two views after that", "MB", of(ours, "memory")),
        *both("find in a container, warm", "find", "ms"),
        report.Row("find, lamina / overlayfs", "x", ratio("find"), 1.15),
        *both("npm ci in a container, warm", "npm ci", "ms"),
        report.Row("npm ci, lamina / overlayfs", "x", ratio("npm ci"), 1.15),
    ]


def main():
    images_directory, programs, results, rounds = *sys.argv[1:4], int(sys.argv[4])
    measured = {"lamina": [], "overlayfs": []}
    # What was started is ended, and what was mounted is unmounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="lamina-bench-containerd.", dir="/var/tmp") as directory:
        registry = Registry(directory, images_directory)
        containers.make_files(os.path.join(directory, "files"))
        try:
            for number in range(rounds):
                for snapshotter, figures in measured.items():
                    print(f"    {snapshotter}, round {number + 1} of {rounds}", flush=True)
                    figures.append(one_round(directory, programs, registry, snapshotter, number))
        finally:
            registry.process.terminate()
            registry.process.wait()
    notes = [f"Debian's containerd and runc; medians of {rounds} interleaved rounds, each with a fresh containerd and store"]
    notes.append("lamina: `lamina containerd pull`; overlayfs: `ctr image pull`; both from a registry on this machine")
    all_rows = rows(measured, top_layer_mb(images_directory, REBUILT))
    report.write(results, "containerd", "containerd on Lamina's snapshotter and on its own", notes, all_rows)
    if any(row.holds is False for row in all_rows):
        sys.exit(1)


main()
