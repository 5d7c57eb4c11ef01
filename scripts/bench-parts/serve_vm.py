"""Measures what the root of a VM costs beside other ways to show it the same tree. scripts/bench starts it.

One guest has our own vhost-user-fs (`--backend direct`) as its root, and the unpacked tree as a share of virtiofsd, below
an overlay as a root is: both are asked in turn. Another has our own vhost-user-blk (`--backend block`) as its root, and as further disks
an EROFS image of the tree by mkfs.erofs, below an overlay too, and an ext4 image of it.

Warm is the same again after 1.2 s: longer than virtiofsd as people start it (`--cache auto`) lets a guest remember.

The guests are emulated by TCG, or run by KVM within an emulated outer guest: see `nested.py`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time

import nested
import peers
import report

REFERENCE = "bench.test/image:1"
GUEST_TIMEOUT = 240

# What is read, below the root of an image: a part of its tree, one of its largest files, a directory of a package, how
# many names are asked for, and how many small files are read. The part has 17,000 entries: an emulated processor would
# take minutes for all of the tree, and virtiofsd keeps a file open for each that its guest knows, and this user may not
# have many open files.
BENCH = ("usr/share", "usr/lib/gcc/x86_64-linux-gnu/12/cc1", "usr/lib/python3/dist-packages/pandas", "20000", "4000")
# The same for the image that has less, for guests in a guest.
DEBIAN = ("usr/share", "usr/bin/python3.11", "usr/lib/python3.11", "5000", "1000")

# The guest's part: what is read, then where the trees are, by name: direct= is the root, virtiofsd=/run/peer/root a share below an overlay.
SCRIPT = r"""
part=$1 large=$2 package=$3 names=$4 small=$5; shift 5
forget() { sync; echo 3 > /proc/sys/vm/drop_caches; }
say() { echo "RESULT $name|$1|$2|$3"; }
ask() {
  what=$1; shift
  forget
  cold=$("$@") && sleep 1.2 && warm=$("$@") || { echo "$name: $what" >&2; exit 1; }
  say "$what" cold "$cold"
  say "$what" warm "$warm"
}
load() { /load/tree-load "$@"; }
took() { begin=$(date +%s%N); "$@" >/dev/null || exit 1; spent=$(($(date +%s%N) - begin)); printf '%d.%09d\n' $((spent / 1000000000)) $((spent % 1000000000)); }
if test -d /peer; then
  mkdir -p /run/peer
  mount -t tmpfs peer /run/peer && mkdir /run/peer/upper /run/peer/work /run/peer/root
  mount -t overlay peer -o lowerdir=/peer,upperdir=/run/peer/upper,workdir=/run/peer/work /run/peer/root || exit 1
fi
if test -e /dev/vdc; then
  mkdir /run/ext4 /run/lower /run/erofs && mount -t tmpfs erofs /run/erofs && mount -t ext4 -o ro /dev/vdc /run/ext4 && mount -t erofs /dev/vdd /run/lower || exit 1
  mkdir /run/erofs/upper /run/erofs/work /run/erofs/root
  mount -t overlay erofs -o lowerdir=/run/lower,upperdir=/run/erofs/upper,workdir=/run/erofs/work /run/erofs/root || exit 1
fi
for pair in "$@"; do
  name=${pair%%=*}; root=${pair#*=}
  ask "find with stat" load find "$root/$part" 1
  load list "$root/$part" > /tmp/list
  ask "random stat" load stat "$root/$part" /tmp/list "$names"
  ask "missing names" load missing "$root/$part" /tmp/list "$names"
  ask "small files" load small "$root/$part" /tmp/list "$small" 1
  ask "small files, 4 threads" load small "$root/$part" /tmp/list "$small" 4
  ask "large file in order" load sequential "$root/$large"
  ask "tar of a package" took tar --create --file /dev/zero --directory "$root/$package" .
  ask "python3: json, http" took chroot "$root/" /usr/bin/python3 -B -c "import json, http.client"
done
"""

# Wraps QEMU to give the guest two more disks, which `lamina run` has no option for.
QEMU_WITH_DISK = """#!/bin/sh
case "$*" in *-machine*) exec {qemu} "$@" -blockdev driver=file,node-name=ext4,filename={ext4},read-only=on -device virtio-blk-pci,drive=ext4 \
  -blockdev driver=file,node-name=erofs,filename={erofs},read-only=on -device virtio-blk-pci,drive=erofs ;; esac
exec {qemu} "$@"
"""


def wrap_qemu(directory, qemu, ext4, erofs):
    os.mkdir(directory)
    path = os.path.join(directory, "qemu-system-x86_64")
    with open(path, "w") as file:
        file.write(QEMU_WITH_DISK.format(qemu=qemu, ext4=ext4, erofs=erofs))
    os.chmod(path, 0o755)


def direct_words(load, tree, read):
    """Arguments of `lamina` for the guest that has its root from our vhost-user-fs, and the tree from virtiofsd."""
    options = ["run", "--backend", "direct", "--memory", "1G", "-v", f"{load}:/load:ro", "-v", f"{tree}:/peer:ro", REFERENCE]
    return [*options, "--", "/bin/sh", "-c", SCRIPT, "sh", *read, "direct=", "virtiofsd=/run/peer/root"]


def block_words(load, read):
    """The same for the guest that has its root from our vhost-user-blk, and the tree on further disks, by the wrapped QEMU.

    The kept disk brings the guest's driver for ext4. It runs unconfined, because the further disks are not its own.
    """
    options = ["run", "--backend", "block", "--memory", "1G", "--keep", "--machine", "q35", "--name", "bench", "--confine", "off"]
    trees = ["block=", "EROFS on virtio-blk=/run/erofs/root", "ext4 on virtio-blk=/run/ext4"]
    return [*options, "-v", f"{load}:/load:ro", REFERENCE, "--", "/bin/sh", "-c", SCRIPT, "sh", *read, *trees]


class Figures:
    """What guests have printed: seconds by workload and state, then by name."""

    def __init__(self):
        self.names, self.seconds = [], {}

    def take(self, output):
        for line in output.splitlines():
            if line.startswith("RESULT "):
                name, workload, state, figures = line.removeprefix("RESULT ").split("|")
                if name not in self.names:
                    self.names.append(name)
                self.seconds.setdefault((workload, state), {}).setdefault(name, []).append(float(figures.split()[0]))


class Bench:
    def __init__(self, kept, programs, work):
        self.kept, self.programs = kept, os.path.abspath(programs)
        self.lamina = os.path.join(self.programs, "lamina")
        # The machines' programs run as another user.
        os.chmod(work, 0o755)
        self.environment = dict(os.environ, LAMINA_STORE=os.path.join(work, "store"), XDG_RUNTIME_DIR=os.path.join(work, "run"), XDG_STATE_HOME=os.path.join(work, "state"))
        os.mkdir(self.environment["XDG_RUNTIME_DIR"], 0o700)
        self.load = os.path.join(work, "load")
        os.mkdir(self.load)
        peers.run("cp", os.path.join(self.programs, "tree-load"), self.load)
        peers.run("strip", os.path.join(self.load, "tree-load"))
        self.figures = Figures()
        self.wrapped = os.path.join(work, "bin")
        wrap_qemu(self.wrapped, shutil.which("qemu-system-x86_64"), kept.ext4, kept.erofs)

    def prepare(self):
        peers.run(self.lamina, "import", self.kept.layout, "--tag", REFERENCE, env=self.environment)

    def guest(self, words, environment=()):
        done = subprocess.run([self.lamina, *words], env={**self.environment, **dict(environment)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=GUEST_TIMEOUT)
        if done.returncode:
            sys.exit(f"error: lamina {' '.join(words[:3])}: {done.stderr.strip()[-2000:]}")
        self.figures.take(done.stdout)

    def round(self):
        self.guest(direct_words(self.load, self.kept.tree, BENCH))
        self.guest(block_words(self.load, BENCH), {"PATH": f"{self.wrapped}:{os.environ['PATH']}"})
        peers.run(self.lamina, "rm", "bench", env=self.environment)


def goals(seconds):
    rows = []
    for (workload, state), figures in seconds.items():
        values = [ours / theirs for ours, theirs in zip(figures["direct"], figures["virtiofsd"])]
        half = state == "warm" and workload in ("find with stat", "random stat", "missing names")
        rows.append(report.Row(f"direct: {workload}, {state} / virtiofsd", "x", values, 0.5 if half else 1))
        values = [ours / theirs for ours, theirs in zip(figures["block"], figures["EROFS on virtio-blk"])]
        rows.append(report.Row(f"block: {workload}, {state} / EROFS on virtio-blk", "x", values, 1))
        values = [block / direct for block, direct in zip(figures["block"], figures["direct"])]
        rows.append(report.Row(f"{workload}, {state}: block / direct", "x", values))
    return rows


def emulated(images, programs, rounds):
    """Runs the guests on this machine. Returns the figures, and how they were made."""
    kept = peers.Kept(images)
    kept.prepare()
    with tempfile.TemporaryDirectory(prefix="bench.", dir=images) as work:
        bench = Bench(kept, programs, work)
        peers.step("the store", bench.prepare)
        # Nobody else enters it otherwise: the tree has programs that make their caller root.
        os.chmod(kept.directory, 0o711)
        try:
            for number in range(rounds):
                peers.step(f"round {number + 1} of {rounds}", bench.round)
        finally:
            os.chmod(kept.directory, 0o700)
    return bench.figures, "QEMU without KVM (every guest's processor is emulated)"


def by_kvm(images, programs, rounds):
    """Runs the guests by KVM in an emulated outer guest. Returns the figures, and how they were made."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="bench.", dir=images) as work:
        outer = nested.Outer(images, programs, work, REFERENCE)
        wrap_qemu(os.path.join(outer.inside, "bin"), "/usr/bin/qemu-system-x86_64", nested.at("tree.ext4"), nested.at("tree.erofs"))
        words = [direct_words(nested.at("load"), nested.at("tree"), DEBIAN), block_words(nested.at("load"), DEBIAN)]
        figures.take(outer.run([*words, ["rm", "bench"]] * rounds))
    return figures, "QEMU with KVM, which an emulated outer guest of one processor runs"


def main():
    images, programs, results, rounds, accelerator = *sys.argv[1:4], int(sys.argv[4]), sys.argv[5]
    figures, how = (by_kvm if accelerator == "kvm" else emulated)(images, programs, rounds)
    notes = [
        f"{time.strftime('%Y-%m-%d')}, {how}, {rounds} rounds, medians",
        "/usr/share of the image; cold: the guest's caches dropped; warm: again after 1.2 s; virtiofsd shares the unpacked tree, below an overlay as a root is; EROFS (below an overlay too) and ext4 are disks beside the root by block",
    ]
    title = "The root of a VM beside other ways to give it the same tree"
    name = "serve-vm-kvm" if accelerator == "kvm" else "serve-vm"
    rows = goals(figures.seconds)
    report.write(results, name, title, notes, rows)
    report.write_groups(results, f"{name}-peers", title, notes, figures.names, figures.seconds)
    if any(row.holds is False for row in rows):
        sys.exit(1)


main()
