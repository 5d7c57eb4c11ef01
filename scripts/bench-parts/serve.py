"""What a mounted image costs beside other ways to have the same tree; started by scripts/bench."""

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
# The whole must end in twelve minutes: a round that would end later is not begun, and a peer that takes part once only
# is left out if the first half has gone.
LAST_ROUND_ENDS, LAST_EXTRA_BEGINS = 660, 400


# What the picture shows of all that is measured; the table has the rest.
SHOWN = [
    ("find with stat", "cold"), ("random stat", "cold"), ("small files", "cold"),
    ("find with stat", "warm"), ("random stat", "warm"), ("small files", "warm"),
    ("tar of a package tree", "cold"), ("large file in order", "cold"), ("compiling hello.c", "cold"),
]


class Sizes:
    def __init__(self, quick):
        self.stats, self.missing, self.small, self.pages = (20_000, 20_000, 2_000, 2_000) if quick else (50_000, 50_000, 4_000, 8_000)


class Bench:
    def __init__(self, kept, programs, work, quick):
        self.kept, self.work, self.sizes = kept, work, Sizes(quick)
        self.programs = os.path.abspath(programs)
        self.load, self.lamina = (os.path.join(self.programs, name) for name in ("tree-load", "lamina"))
        self.environment = dict(os.environ, LAMINA_STORE=os.path.join(work, "store"), XDG_RUNTIME_DIR=os.path.join(work, "run"), XDG_STATE_HOME=os.path.join(work, "state"))
        os.mkdir(self.environment["XDG_RUNTIME_DIR"], 0o700)
        self.list = os.path.join(work, "list")
        # (workload, cold or warm) -> peer -> seconds, one for each round
        self.seconds = {}
        self.memory, self.descriptors = [], []

    def prepare(self):
        with open(self.list, "w") as file:
            subprocess.run([self.load, "list", self.kept.tree], stdout=file, check=True)
        run(self.lamina, "import", self.kept.layout, "--tag", REFERENCE, env=self.environment)
        self.base = run(self.lamina, "prepare", "--layer", self.kept.large, REFERENCE, env=self.environment).strip()

    def note(self, workload, state, peer, seconds):
        self.seconds.setdefault((workload, state), {}).setdefault(peer.name, []).append(seconds)

    def timed(self, *command):
        """Seconds that the load program says it took."""
        return float(run(self.load, *map(str, command)).split()[0])

    def command_seconds(self, command):
        begin = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"error: {' '.join(command)}: {done.stderr.strip()[-2000:]}")
        return time.monotonic() - begin

    def fresh(self, peer):
        """Mounts with nothing of it cached. Returns the seconds that mounting took, which count as part of what is then done cold."""
        peer.down(self.environment)
        run("sync")
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        begin = time.monotonic()
        peer.up(self.environment)
        return time.monotonic() - begin

    def pair(self, peer, workload, seconds, warm=True):
        """A workload after a fresh mount, and once more."""
        mounted = self.fresh(peer)
        self.note(workload, "cold", peer, mounted + seconds())
        if warm:
            self.note(workload, "warm", peer, seconds())
        return mounted

    def round(self, peer):
        root, sizes, point = peer.point, self.sizes, peer.point
        large = os.path.join(root, LARGE)
        mounted = self.pair(peer, "find with stat", lambda: self.timed("find", root, 1))
        self.note("find with stat, 4 threads", "warm", peer, self.timed("find", root, 4))
        if peer.mount:
            self.note("mount", "cold", peer, mounted)
        self.pair(peer, "random stat", lambda: self.timed("stat", root, self.list, sizes.stats))
        self.note("missing names", "warm", peer, self.timed("missing", root, self.list, sizes.missing))
        self.note("missing names", "warm", peer, self.timed("missing", root, self.list, sizes.missing))
        self.pair(peer, "small files", lambda: self.timed("small", root, self.list, sizes.small, 1))
        self.pair(peer, "small files, 4 threads", lambda: self.timed("small", root, self.list, sizes.small, 4))
        self.pair(peer, "large file in order", lambda: self.timed("sequential", large))
        self.pair(peer, "large file, 4 KiB at random", lambda: self.timed("random", large, sizes.pages), warm=False)
        self.pair(peer, "large file mapped, at random", lambda: self.timed("mapped", large, sizes.pages), warm=False)
        self.pair(peer, "tar of a package tree", lambda: self.command_seconds(["tar", "--create", "--file", "/dev/zero", "--directory", os.path.join(root, "srv/web"), "."]))
        self.run_programs(peer, root)
        if peer.name == "lamina":
            server = self.server()
            self.memory.append(resident_mb(server))
            self.descriptors.append(len(os.listdir(f"/proc/{server}/fd")))
        peer.down(self.environment)

    def run_programs(self, peer, root):
        """Programs of the image, in it."""
        inside = lambda *command: ["chroot", root, *command]
        self.pair(peer, "python3: numpy, pandas", lambda: self.command_seconds(inside("/usr/bin/python3", "-B", "-c", "import numpy, pandas")))
        typescript = os.path.join(root, "srv/web/node_modules/typescript")
        self.pair(peer, "node: typescript", lambda: self.command_seconds(["node", "-e", f"require({json.dumps(typescript)})"]))
        compile_hello = inside("/bin/sh", "-c", "printf '#include <stdio.h>\\nint main(void) { return puts(\"hello\") < 0; }\\n' | TMPDIR=/dev/shm gcc -x c - -o /dev/shm/hello")
        self.pair(peer, "compiling hello.c", lambda: self.with_memory(root, compile_hello))

    def with_memory(self, root, command):
        """A command that may write below /dev/shm, which is `tmp` where the image has no such directory."""
        place = os.path.join(root, "tmp")
        command = [word.replace("/dev/shm", "/tmp") for word in command]
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


def ratios(bench, workload, state, peer):
    """Lamina's time as a multiple of the peer's, for the rounds that both have."""
    figures = bench.seconds.get((workload, state), {})
    return [ours / theirs for ours, theirs in zip(figures.get("lamina", []), figures.get(peer, []))]


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
    at_most(1, "small files", "cold", "overlayfs")
    at_most(1 / 3, "small files", "cold", "fuse-overlayfs 1.10", "fuse-overlayfs 2.0", "squashfuse", "unionfs-fuse")
    one, four = (bench.seconds[workload, "cold"]["lamina"] for workload in ("small files", "small files, 4 threads"))
    rows.append(report.Row("small files, cold: 1 reader / 4 readers", "x", [a / b for a, b in zip(one, four)], 2.5, at_least=True))
    ours, ext4 = (bench.seconds["large file in order", "cold"][name] for name in ("lamina", "ext4, unpacked"))
    share = [max(peers.LARGE_BYTES / 2e9 / a, b / a / 0.6) for a, b in zip(ours, ext4)]
    rows.append(report.Row("large file, cold: speed / the lesser of 2 GB/s and 0.6 x ext4", "x", share, 1, at_least=True))
    rows.append(report.Row("server's memory afterwards", "MB", bench.memory, 60))
    rows.append(report.Row("server's descriptors afterwards", "", bench.descriptors, 3 * layers + 32))
    return rows


def rounds_of(bench, everyone, rounds, quick, left_out):
    """Does as many rounds as there is time for, at least one. Returns how many."""
    began = time.monotonic()
    elapsed = lambda: time.monotonic() - began
    done = longest = 0
    while done < rounds and (done == 0 or elapsed() + longest < LAST_ROUND_ENDS):
        round_began = elapsed()
        for peer in everyone:
            if not peer.also:
                peers.step(f"round {done + 1} of {rounds}: {peer.name}", lambda: bench.round(peer))
        longest = max(longest, elapsed() - round_began)
        if done == 0:
            for peer in everyone:
                if peer.also and (quick or elapsed() > LAST_EXTRA_BEGINS):
                    left_out.append(peer.name)
                elif peer.also:
                    peers.step(f"once: {peer.name}", lambda: bench.round(peer))
        done += 1
    return done


def main():
    images, programs, results, new_fuse_overlayfs, rounds, quick = *sys.argv[1:5], int(sys.argv[5]), sys.argv[6] == "quick"
    kept = peers.Kept(images)
    kept.prepare()
    # On a real disk: where the images are, not /tmp, which may be memory.
    with tempfile.TemporaryDirectory(prefix="bench.", dir=images) as work:
        bench = Bench(kept, programs, work, quick)
        peers.step("the store and the list of paths", bench.prepare)
        everyone = peers.all_peers(kept, work, bench.programs, bench.base, new_fuse_overlayfs)
        left_out = []
        try:
            done = rounds_of(bench, everyone, rounds, quick, left_out)
        finally:
            for peer in everyone:
                if peer.mount and os.path.ismount(peer.point):
                    subprocess.run(["umount", "--lazy", peer.point], check=False)
    sizes = bench.sizes
    notes = [
        f"{time.strftime('%Y-%m-%d')}, {done} interleaved rounds, medians; fuse-overlayfs 2.0, squashfuse and unionfs-fuse in the first only" + (f" (left out: {', '.join(left_out)})" if left_out else ""),
        f"cold: caches dropped, then mounted (which counts) and done; {sizes.stats:,} random stats, {sizes.small:,} small files in random order, {sizes.pages:,} random pages of a file of {peers.LARGE_BYTES >> 20} MiB",
    ]
    limits = goals(bench, len(kept.layers) + 1)
    title = "A mounted image beside other ways to have the same tree"
    report.write(results, "serve", title, notes, limits)
    report.write_groups(results, "serve-peers", title, notes, [peer.name for peer in everyone], bench.seconds, SHOWN)
    if any(row.holds is False for row in limits):
        sys.exit(1)


main()
