"""Measures what keeping shared content once costs and saves. scripts/bench starts it."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import report

FIRST = "bench.test/image:1"
REBUILT = "bench.test/image:2"
MOVED = "bench.test/moved:1"


class Bench:
    def __init__(self, programs, work):
        self.lamina_program = os.path.join(os.path.abspath(programs), "lamina")
        self.work = work
        self.store = os.path.join(work, "store")
        self.environment = dict(os.environ, LAMINA_STORE=self.store, XDG_RUNTIME_DIR=os.path.join(work, "run"))
        os.mkdir(os.path.join(work, "run"), 0o700)

    def lamina(self, *arguments):
        done = subprocess.run([self.lamina_program, *arguments], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: lamina {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def import_seconds(self, layout, reference, shared):
        """How long an import that starts on an idle disk takes."""
        os.sync()
        begin = time.monotonic()
        self.lamina("import", layout, "--tag", reference, *([] if shared else ["--no-file-sharing"]))
        return time.monotonic() - begin

    def forget_store(self):
        shutil.rmtree(self.store, ignore_errors=True)

    def usage(self):
        return json.loads(self.lamina("du", "--json"))

    def read_mb_per_second(self, path):
        """Reads one file from a mount of a store whose pages are in memory, past the mount's own cache."""
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            begin, length = time.monotonic(), 0
            while piece := file.read(1 << 20):
                length += len(piece)
        return length / 1e6 / (time.monotonic() - begin)


def moved_layout(directory):
    """An archive of one large file, and a second that has it at another path, as layouts of one plain layer each."""
    content = os.urandom(256 << 20)
    made = []
    for name, path in (("first", "a/large"), ("second", "b/deeper/large")):
        tree = os.path.join(directory, name)
        os.makedirs(os.path.join(tree, os.path.dirname(path)))
        with open(os.path.join(tree, path), "wb") as file:
            file.write(content)
        layout = os.path.join(directory, f"{name}-layout")
        for command in (["umoci", "init", "--layout", layout], ["umoci", "new", "--image", f"{layout}:latest"], ["umoci", "insert", "--image", f"{layout}:latest", tree, "/data"]):
            subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(tree)
        made.append(layout)
    return made


def importing(bench, layout, rebuilt, rounds):
    """Alternates between with and without sharing; each is first in every second round."""
    alone, again, saved, growth = {True: [], False: []}, {True: [], False: []}, [], []
    for number in range(rounds):
        print(f"    round {number + 1} of {rounds}", flush=True)
        for shared in (number % 2 == 0, number % 2 == 1):
            bench.forget_store()
            alone[shared].append(bench.import_seconds(layout, FIRST, shared))
            before = bench.usage()
            again[shared].append(bench.import_seconds(rebuilt, REBUILT, shared))
            after = bench.usage()
            if shared:
                saved.append(after["saved_by_files"] / 1e6)
                added = [layer for layer in after["layers"] if layer["images"] == [REBUILT]]
                growth.append((after["blobs"] - before["blobs"]) / sum(layer["apparent"] for layer in added))
    # Medians, not pairs: an import sometimes runs while the disk does other work.
    ratio = lambda times: [statistics.median(times[True]) / statistics.median(times[False])]
    return [
        report.Row("import, nothing in common", "s", alone[True]),
        report.Row("the same without sharing", "s", alone[False]),
        report.Row("with / without, nothing in common", "x", ratio(alone), 1.1),
        report.Row("import of the rebuilt image", "s", again[True]),
        report.Row("the same without sharing", "s", again[False]),
        report.Row("with / without, rebuilt", "x", ratio(again), 1.1),
        report.Row("saved by the rebuilt image's content", "MB", saved),
        report.Row("growth by a rebuilt layer / its tar", "x", growth),
    ]


def reading(bench, layouts, rounds):
    for reference, layout in ((FIRST, layouts[0]), (MOVED, layouts[1])):
        bench.lamina("import", layout, "--tag", reference)
    own, shared = [], []
    points = [os.path.join(bench.work, name) for name in ("own", "shared")]
    for number in range(4 * rounds):
        for reference, point, path, rates in ((FIRST, points[0], "data/a/large", own), (MOVED, points[1], "data/b/deeper/large", shared)):
            os.makedirs(point, exist_ok=True)
            bench.lamina("mount", reference, point)
            rates.append(bench.read_mb_per_second(os.path.join(point, path)))
            bench.lamina("umount", point)
    return [
        report.Row("reading a file in its own layer", "MB/s", own),
        report.Row("reading a file stored in another layer", "MB/s", shared),
        report.Row("shared / own", "x", [statistics.median(shared) / statistics.median(own)], 0.9, at_least=True),
    ]


def main():
    images, programs, results, rounds = *sys.argv[1:4], int(sys.argv[4])
    # On a real disk: where the images are, not /tmp, which may be memory.
    with tempfile.TemporaryDirectory(prefix="bench.", dir=images) as work:
        bench = Bench(programs, work)
        layout, rebuilt = (os.path.join(images, name) for name in ("bench", "bench-rebuilt"))
        rows = importing(bench, layout, rebuilt, rounds)
        bench.forget_store()
        rows += reading(bench, moved_layout(work), rounds)
    report.write(results, "sharing", "Content that several layers have, kept once", [f"medians of {rounds} rounds"], rows)
    if any(row.holds is False for row in rows):
        sys.exit(1)


main()
