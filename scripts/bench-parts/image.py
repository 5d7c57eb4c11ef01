"""Measures what an image of 100,000 files and more costs. scripts/bench starts it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import one_layer
import report

REFERENCE = "bench.test/image:1"
REBUILT = "bench.test/image:2"
# On two processors: 3.5 s for a tar of 2.8 GB that zlib inflates in 2.3 s, and 2.6 s for one that zstd decompresses in 1.6 s.
ONE_LAYER_LIMITS = {"gzip": 3.5 / 2.3, "zstd": 2.6 / 1.6}


class Bench:
    def __init__(self, images, programs, work):
        self.layout = os.path.join(images, "bench")
        self.rebuilt = os.path.join(images, "bench-rebuilt")
        self.programs = os.path.abspath(programs)
        self.work = work
        self.store = os.path.join(work, "store")
        self.environment = dict(os.environ, LAMINA_STORE=self.store, XDG_RUNTIME_DIR=os.path.join(work, "run"), XDG_STATE_HOME=os.path.join(work, "state"))
        os.mkdir(os.path.join(work, "run"), 0o700)

    def program(self, name, *arguments):
        return [os.path.join(self.programs, name), *arguments]

    def run(self, *command):
        """Runs a command to its end. Returns its standard output. A failure ends the benchmark with its message."""
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"error: {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def lamina(self, *arguments):
        return self.run(*self.program("lamina", *arguments))

    def seconds(self, *command):
        """How long a command that starts on an idle disk takes."""
        os.sync()
        begin = time.monotonic()
        self.run(*command)
        return time.monotonic() - begin

    def import_seconds(self, layout, reference):
        return self.seconds(*self.program("lamina", "import", layout, "--tag", reference))

    def umoci_seconds(self, layout):
        bundle = os.path.join(self.work, "bundle")
        taken = self.seconds("umoci", "unpack", "--image", f"{layout}:latest", bundle)
        shutil.rmtree(bundle)
        return taken

    def inflate_seconds(self, layout=None):
        return self.seconds(*self.program("inflate-floor", layout or self.layout))

    def import_cost(self, layout):
        """Imports into an empty store. Returns the seconds, the processor time in seconds and the most memory in MB."""
        self.forget_store()
        os.sync()
        begin = time.monotonic()
        command = self.program("lamina", "import", "-q", layout, "--tag", REFERENCE)
        pid = os.posix_spawn(command[0], command, self.environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
        _, status, used = os.wait4(pid, 0)
        if status:
            sys.exit(f"error: lamina import {layout} fails")
        return time.monotonic() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6

    def write_seconds(self, length):
        """Writes and syncs `length` bytes to the disk of the store."""
        os.sync()
        block = os.urandom(1 << 20)
        path = os.path.join(self.work, "written")
        begin = time.monotonic()
        with open(path, "wb", buffering=0) as file:
            for _ in range(length >> 20):
                file.write(block)
            os.fsync(file.fileno())
        taken = time.monotonic() - begin
        os.remove(path)
        return taken

    def forget_store(self):
        shutil.rmtree(self.store, ignore_errors=True)

    def hyperfine_ms(self, prepare, command, runs):
        """The median whole-command times in milliseconds, measured by hyperfine."""
        out = os.path.join(self.work, "hyperfine.json")
        self.run("hyperfine", "-N", "--warmup", "1", "--runs", str(runs), "--export-json", out, *(["--prepare", prepare] if prepare else []), command)
        with open(out) as file:
            return [1000 * taken for taken in json.load(file)["results"][0]["times"]]

    def server(self):
        """The process of this benchmark that has /dev/fuse open."""
        mark = f"LAMINA_STORE={self.store}".encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if mark in open(f"/proc/{pid}/environ", "rb").read() and any(target == "/dev/fuse" for target in descriptors(pid)):
                    return pid
            except OSError:
                continue
        sys.exit("error: no process serves the mount")


def descriptors(pid):
    directory = f"/proc/{pid}/fd"
    return [os.readlink(os.path.join(directory, entry)) for entry in os.listdir(directory)]


def resident_mb(pid):
    line = next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def disk_bytes(directory):
    return sum(os.lstat(os.path.join(root, name)).st_blocks * 512 for root, _, names in os.walk(directory) for name in names)


def file_bytes(directory):
    return sum(os.lstat(os.path.join(root, name)).st_size for root, _, names in os.walk(directory) for name in names)


def tar_lengths(layout):
    """The uncompressed length of every layer, lowest first, from the gzip blobs themselves."""
    blob = lambda digest: os.path.join(layout, "blobs", *digest.split(":"))
    with open(os.path.join(layout, "index.json")) as file:
        index = json.load(file)
    tagged = next(each for each in index["manifests"] if each["annotations"]["org.opencontainers.image.ref.name"] == "latest")
    with open(blob(tagged["digest"])) as file:
        layers = json.load(file)["layers"]
    return [int(subprocess.run(f"gzip -dc {blob(layer['digest'])} | wc -c", shell=True, check=True, capture_output=True).stdout) for layer in layers]


def importing(bench, lengths, rounds):
    """Interleaved, so other load on the machine affects all of them equally."""
    ours, umoci, inflate, write, rebuilt, rebuilt_umoci, growth = [], [], [], [], [], [], []
    for number in range(rounds):
        print(f"    round {number + 1} of {rounds}", flush=True)
        bench.forget_store()
        ours.append(bench.import_seconds(bench.layout, REFERENCE))
        umoci.append(bench.umoci_seconds(bench.layout))
        inflate.append(bench.inflate_seconds())
        write.append(bench.write_seconds(sum(lengths)))
        before = disk_bytes(bench.store)
        rebuilt.append(bench.import_seconds(bench.rebuilt, REBUILT))
        growth.append((disk_bytes(bench.store) - before) / lengths[-1])
        rebuilt_umoci.append(bench.umoci_seconds(bench.rebuilt))
    ratio = lambda upper, lower: [a / b for a, b in zip(upper, lower)]
    floor = [max(pair) for pair in zip(inflate, write)]
    return [
        report.Row("import from gzip layers", "s", ours),
        report.Row("umoci unpack", "s", umoci),
        report.Row("only unzipping and hashing", "s", inflate),
        report.Row("only writing as many bytes", "s", write),
        report.Row("umoci unpack / import", "x", ratio(umoci, ours), 10, at_least=True),
        report.Row("import / the slower of the two floors", "x", ratio(ours, floor), 1.5),
        report.Row("import of the rebuilt image", "s", rebuilt),
        report.Row("umoci unpack / import, rebuilt", "x", ratio(rebuilt_umoci, rebuilt), 100, at_least=True),
        report.Row("growth by a rebuilt layer / its tar", "x", growth, 1.05),
    ]


def importing_one_layer(bench, images, rounds):
    """The same files as one layer: all processors have to share the work on one stream."""
    rows = []
    for compression, layout in one_layer.layouts(images, bench.layout):
        costs, floor = [], []
        for number in range(rounds):
            costs.append(bench.import_cost(layout))
            floor.append(bench.inflate_seconds(layout))
        seconds, processor, memory = map(list, zip(*costs))
        ratio = [ours / least for ours, least in zip(seconds, floor)]
        rows += [
            report.Row(f"import of one {compression} layer", "s", seconds),
            report.Row(f"only decompressing and hashing it ({compression})", "s", floor),
            report.Row(f"import / that floor ({compression})", "x", ratio, ONE_LAYER_LIMITS[compression]),
            report.Row(f"processor time of that import ({compression})", "s", processor),
            report.Row(f"memory of that import ({compression})", "MB", memory, (64 + 8 * os.cpu_count()) * 1.048576),
        ]
    return rows


def preparing(bench, rounds):
    bases = os.path.join(bench.store, "bases")
    command = " ".join(bench.program("lamina", "prepare", REFERENCE))
    first = bench.hyperfine_ms(f"find {bases} -mindepth 1 -delete", command, 4 * rounds)
    again = bench.hyperfine_ms(None, command, 4 * rounds)
    return [
        report.Row("prepare, whole command", "ms", first, 50),
        report.Row("prepare what is prepared", "ms", again),
        report.Row("base on disk", "MB", [file_bytes(bases) / 1e6], 5),
    ]


def mounting(bench, layers, rounds):
    point = os.path.join(bench.work, "mounted")
    os.mkdir(point)
    readable, resident, opened = [], [], []
    for number in range(2 * rounds):
        begin = time.monotonic()
        bench.lamina("mount", REFERENCE, point)
        with open(os.path.join(point, "etc/os-release")) as file:
            file.read()
        readable.append(1000 * (time.monotonic() - begin))
        if number == 0:
            pid = bench.server()
            bench.run("find", point)
            resident.append(resident_mb(pid))
            bench.run("sh", "-c", f"find {point} -type f -print0 | xargs -0 cat > /dev/null")
            opened.append(len(descriptors(pid)))
        bench.lamina("umount", point)
    return [
        report.Row("mount to a readable /etc/os-release", "ms", readable, 50),
        report.Row("server's resident memory after a find", "MB", resident, 40),
        report.Row("server's descriptors after reading all", "", opened, 3 * layers + 32),
    ]


def main():
    images, programs, results, rounds = *sys.argv[1:4], int(sys.argv[4])
    # On a real disk: where the images are, not /tmp, which may be memory.
    with tempfile.TemporaryDirectory(prefix="bench.", dir=images) as work:
        bench = Bench(images, programs, work)
        lengths = tar_lengths(bench.layout)
        rows = importing_one_layer(bench, images, rounds)
        rows += importing(bench, lengths, rounds)
        rows += preparing(bench, rounds)
        rows += mounting(bench, len(lengths), rounds)
        point = os.path.join(work, "count")
        os.mkdir(point)
        bench.lamina("mount", REFERENCE, point)
        entries = sum(len(directories) + len(names) for _, directories, names in os.walk(point))
        bench.lamina("umount", point)
    notes = [f"{entries:,} entries in {len(lengths)} layers, {sum(lengths) / 1e9:.2f} GB of tar", f"medians of {rounds} interleaved rounds"]
    report.write(results, "image", "One large image: import, prepare, mount", notes, rows)
    if any(row.holds is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
