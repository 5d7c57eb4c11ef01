"""Measures what a mounted image costs beside other ways to show the same tree. scripts/bench starts it."""

import json
import os
import subprocess
import sys
import tempfile
import time

import peers
import report
from peers import LARGE, run

REFERENCE = "bench.test/image:1"
# As tests/src/bin/tree-load.rs has it.
SMALL_BYTES = 64 << 10
# A workload that takes a peer longer is stopped, and counts as this many seconds, which is less than it would have taken.
LONGEST = 40

# The part of the measurements that the chart shows; the table has the rest.
SHOWN = [
    ("find with stat", "cold"), ("random stat", "cold"), ("small files", "cold"),
    ("find with stat", "warm"), ("random stat", "warm"), ("small files", "warm"),
    ("tar of everything", "cold"), ("large file in order", "cold"), ("compiling hello.c", "cold"),
]


class Sizes:
    """How often each workload runs. All small files, except in a quick run."""

    def __init__(self, quick):
        self.stats, self.missing, self.small, self.pages = (20_000, 20_000, 4_000, 2_000) if quick else (200_000, 50_000, None, 8_000)


class Bench:
    def __init__(self, kept, programs, work, quick):
        self.kept, self.work, self.sizes = kept, work, Sizes(quick)
        self.small_files = 0
        self.programs = os.path.abspath(programs)
        self.load, self.lamina = (os.path.join(self.programs, name) for name in ("tree-load", "lamina"))
        self.environment = dict(os.environ, LAMINA_STORE=os.path.join(work, "store"), XDG_RUNTIME_DIR=os.path.join(work, "run"), XDG_STATE_HOME=os.path.join(work, "state"))
        os.mkdir(self.environment["XDG_RUNTIME_DIR"], 0o700)
        self.list = os.path.join(work, "list")
        # (workload, cold or warm) -> peer -> seconds, one for each round
        self.seconds = {}
        # peer -> the workloads that were ended before they were done
        self.ended = {}
        self.memory, self.descriptors = [], []

    def prepare(self):
        with open(self.list, "w") as file:
            subprocess.run([self.load, "list", self.kept.tree], stdout=file, check=True)
        with open(self.list, "rb") as file:
            small = sum(1 for line in file if line.startswith(b"f ") and int(line.split(b" ", 2)[1]) <= SMALL_BYTES)
        self.small_files = min(small, self.sizes.small or small)
        run(self.lamina, "import", self.kept.layout, "--tag", REFERENCE, env=self.environment)
        self.base = run(self.lamina, "prepare", "--layer", self.kept.large, REFERENCE, env=self.environment).strip()

    def note(self, workload, state, peer, seconds):
        self.seconds.setdefault((workload, state), {}).setdefault(peer.name, []).append(seconds)

    def timed(self, *command):
        """Seconds that the load program reports; LONGEST if it was stopped."""
        try:
            return float(run(self.load, *map(str, command), timeout=LONGEST).split()[0])
        except subprocess.TimeoutExpired:
            return LONGEST

    def command_seconds(self, command):
        begin = time.monotonic()
        try:
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            return LONGEST
        if done.returncode:
            sys.exit(f"error: {' '.join(command)}: {done.stderr.strip()[-2000:]}")
        return time.monotonic() - begin

    def fresh(self, peer):
        """Mounts with an empty cache. Returns the seconds that mounting took, which count as part of the cold workload."""
        peer.down(self.environment)
        run("sync")
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        begin = time.monotonic()
        peer.up(self.environment)
        return time.monotonic() - begin

    def pair(self, peer, workload, seconds, warm=True):
        """Runs a workload after a fresh mount, and once more unless the first was stopped."""
        mounted = self.fresh(peer)
        cold = seconds()
        self.note(workload, "cold", peer, mounted + cold)
        if cold == LONGEST:
            self.ended.setdefault(peer.name, set()).add(workload)
        elif warm:
            self.note(workload, "warm", peer, seconds())
        return mounted

    def round(self, peer):
        root, sizes, point = peer.point, self.sizes, peer.point
        large = os.path.join(root, LARGE)
        mounted = self.pair(peer, "find with stat", lambda: self.timed("find", root, 1))
        self.pair(peer, "find with stat, 4 threads", lambda: self.timed("find", root, 4))
        if peer.mount:
            self.note("mount", "cold", peer, mounted)
        self.pair(peer, "random stat", lambda: self.timed("stat", root, self.list, sizes.stats))
        self.pair(peer, "missing names", lambda: self.timed("missing", root, self.list, sizes.missing))
        self.pair(peer, "small files", lambda: self.timed("small", root, self.list, self.small_files, 1))
        self.pair(peer, "small files, 4 threads", lambda: self.timed("small", root, self.list, self.small_files, 4))
        self.pair(peer, "large file in order", lambda: self.timed("sequential", large))
        self.pair(peer, "large file, 4 KiB at random", lambda: self.timed("random", large, sizes.pages), warm=False)
        self.pair(peer, "large file mapped, at random", lambda: self.timed("mapped", large, sizes.pages), warm=False)
        self.pair(peer, "tar of everything", lambda: self.command_seconds(["tar", "--create", "--file", "/dev/zero", "--directory", root, "."]))
        self.run_programs(peer, root)
        if peer.name == "lamina":
            self.weigh(peer)
        peer.down(self.environment)

    def weigh(self, peer):
        """Records the server's memory and descriptors after a mount was read in every way."""
        self.fresh(peer)
        self.timed("find", peer.point, 4)
        self.timed("small", peer.point, self.list, self.small_files, 4)
        self.timed("sequential", os.path.join(peer.point, LARGE))
        server = self.server()
        self.memory.append(resident_mb(server))
        self.descriptors.append(len(os.listdir(f"/proc/{server}/fd")))

    def run_programs(self, peer, root):
        """Runs the image's programs inside it."""
        inside = lambda *command: ["chroot", root, *command]
        self.pair(peer, "python3: numpy, pandas", lambda: self.command_seconds(inside("/usr/bin/python3", "-B", "-c", "import numpy, pandas")))
        typescript = os.path.join(root, "srv/web/node_modules/typescript")
        self.pair(peer, "node: typescript", lambda: self.command_seconds(["node", "-e", f"require({json.dumps(typescript)})"]))
        compile_hello = inside("/bin/sh", "-c", "printf '#include <stdio.h>\\nint main(void) { return puts(\"hello\") < 0; }\\n' | gcc -x c - -o /tmp/hello")
        self.pair(peer, "compiling hello.c", lambda: self.with_memory(root, compile_hello))

    def with_memory(self, root, command):
        """A command that may write below /tmp."""
        place = os.path.join(root, "tmp")
        run("mount", "-t", "tmpfs", "tmpfs", place)
        try:
            return self.command_seconds(command)
        finally:
            run("umount", place)

    def server(self):
        mark = f"LAMINA_STORE={self.environment['LAMINA_STORE']}".encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                directory = f"/proc/{pid}/fd"
                if mark in open(f"/proc/{pid}/environ", "rb").read() and any(os.readlink(os.path.join(directory, each)) == "/dev/fuse" for each in os.listdir(directory)):
                    return pid
            except OSError:
                continue
        sys.exit("error: no process serves the mount")


def resident_mb(pid):
    line = next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def ratios(bench, workload, state, peer, ours="lamina"):
    """Lamina's time as a multiple of the peer's, for the rounds that both have."""
    figures = bench.seconds.get((workload, state), {})
    return [mine / theirs for mine, theirs in zip(figures.get(ours, []), figures.get(peer, []))]


def goals(bench, layers):
    rows = []

    def at_most(limit, workload, state, *others):
        for other in others:
            values = ratios(bench, workload, state, other)
            if values:
                rows.append(report.Row(f"{workload}, {state} / {other}", "x", values, limit))

    for workload, state in bench.seconds:
        if state == "warm":
            at_most(1.1, workload, "warm", "ext4, unpacked")
    for workload in "find with stat", "random stat":
        at_most(0.3, workload, "cold", "overlayfs")
        at_most(0.1, workload, "cold", "fuse-overlayfs 1.10", "fuse-overlayfs 2.0")
        at_most(2, workload, "cold", "EROFS")
    if rings := ratios(bench, "random stat", "cold", "overlayfs", "lamina, io_uring"):
        rows.append(report.Row("random stat, cold, io_uring / overlayfs", "x", rings, 0.9))
    at_most(1, "small files", "cold", "overlayfs")
    at_most(1 / 3, "small files", "cold", "fuse-overlayfs 1.10", "fuse-overlayfs 2.0", "squashfuse", "unionfs-fuse")
    one, four = (bench.seconds[workload, "cold"]["lamina"] for workload in ("small files", "small files, 4 threads"))
    rows.append(report.Row("small files, cold: 1 reader / 4 readers", "x", [a / b for a, b in zip(one, four)], 2.5, at_least=True))
    ours, ext4 = (bench.seconds["large file in order", "cold"][name] for name in ("lamina", "ext4, unpacked"))
    share = [max(peers.LARGE_BYTES / 2e9 / a, b / a / 0.6) for a, b in zip(ours, ext4)]
    rows.append(report.Row("large file, cold: speed / the lower of 2 GB/s and 0.6 x ext4", "x", share, 1, at_least=True))
    rows.append(report.Row("server's memory afterwards", "MB", bench.memory, 60))
    rows.append(report.Row("server's descriptors afterwards", "", bench.descriptors, 3 * layers + 32))
    return rows


def do_rounds(bench, everyone, rounds, quick):
    """Interleaved: each peer in each round; some only in the first, and not at all in a quick run."""
    for number in range(rounds):
        for peer in everyone:
            if not peer.also or (number == 0 and not quick):
                peers.step(f"round {number + 1} of {rounds}: {peer.name}", lambda: bench.round(peer))


def main():
    images, programs, results, new_fuse_overlayfs, rounds, quick = *sys.argv[1:5], int(sys.argv[5]), sys.argv[6] == "quick"
    kept = peers.Kept(images)
    kept.prepare()
    # On a real disk: where the images are, not /tmp, which may be memory.
    with tempfile.TemporaryDirectory(prefix="bench.", dir=images) as work:
        bench = Bench(kept, programs, work, quick)
        peers.step("the store and the list of paths", bench.prepare)
        everyone = peers.all_peers(kept, work, bench.programs, bench.base, new_fuse_overlayfs)
        try:
            do_rounds(bench, everyone, rounds, quick)
        finally:
            for peer in everyone:
                if peer.mount and os.path.ismount(peer.point):
                    subprocess.run(["umount", "--lazy", peer.point], check=False)
    sizes = bench.sizes
    once = [peer.name for peer in everyone if peer.also]
    notes = [
        f"{time.strftime('%Y-%m-%d')}, {rounds} interleaved rounds, medians; {', '.join(once)}: {'left out' if quick else 'in the first only'}",
        f"cold: caches dropped, then mounted (which counts) and done; {sizes.stats:,} random stats, {bench.small_files:,} small files in random order, {sizes.pages:,} random pages of a file of {peers.LARGE_BYTES >> 20} MiB",
        *(f"ended after {LONGEST} s, which is what counts: {name}: {', '.join(sorted(workloads))}" for name, workloads in bench.ended.items()),
    ]
    limits = goals(bench, len(kept.layers) + 1)
    title = "A mounted image beside other ways to have the same tree"
    report.write(results, "serve", title, notes, limits)
    report.write_groups(results, "serve-peers", title, notes, [peer.name for peer in everyone], bench.seconds, SHOWN)
    if any(row.holds is False for row in limits):
        sys.exit(1)


main()
