"""Measures what the root of a VM costs beside other ways to show it the same tree. scripts/bench starts it.

One guest has our own vhost-user-fs (`--backend direct`) as its root. Two have the unpacked tree as their root, by virtiofsd (`--rootfs`): as
people start it (`--cache auto`), and as `lamina run` does (`--cache always`), which is right only for a tree that never changes. Another has our own
vhost-user-blk (`--backend block`) as its root, and as further disks an EROFS image of the tree by mkfs.erofs, below an overlay as a root is, and an
ext4 image of it.

Warm is the same again after 1.2 s: longer than `--cache auto` lets a guest remember.

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
GUEST_TIMEOUT = 400
# An ordinary user, which `scripts/setup` has created.
USER = "lamina-test"
# The names of peers that goals are about.
ALWAYS, AUTO, EROFS = "virtiofsd, cache always", "virtiofsd, cache auto", "EROFS on virtio-blk"

# What is read, below the root of an image: a part of its tree, one of its largest files, a directory of a package, how
# many names are asked for, and how many small files are read. The part has 17,000 entries: an emulated processor would
# take minutes for all of the tree, and virtiofsd keeps a file open for each that its guest knows, and this user may not
# have many open files.
BENCH = ("usr/share", "usr/lib/gcc/x86_64-linux-gnu/12/cc1", "usr/lib/python3/dist-packages/pandas", "20000", "4000")
# The same for the image that has less, for guests in a guest.
DEBIAN = ("usr/share", "usr/bin/python3.11", "usr/lib/python3.11", "5000", "1000")

# The guest's part: what is read, then where the trees are, by name: direct= is the root.
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


# Gives the guest's root the cache that people use.
VIRTIOFSD_AUTO = """#!/bin/bash
exec {virtiofsd} "${{@/#always/auto}}"
"""


def write_program(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o755)


def wrap(directory, virtiofsd, ext4, erofs):
    """Writes the programs `disk/qemu-system-x86_64` and `auto/virtiofsd` into the directory."""
    qemu = shutil.which("qemu-system-x86_64")
    write_program(os.path.join(directory, "disk", "qemu-system-x86_64"), QEMU_WITH_DISK.format(qemu=qemu, ext4=ext4, erofs=erofs))
    write_program(os.path.join(directory, "auto", "virtiofsd"), VIRTIOFSD_AUTO.format(virtiofsd=virtiofsd))


class Guest:
    """The arguments of `lamina` that run a guest, and the directory below that of the wrapped programs that is searched for programs first."""

    def __init__(self, words, programs=None):
        self.words, self.programs = words, programs


def guests(load, tree, read):
    def words(root, *trees):
        # Unconfined, because the wrapped programs start others, and the further disks are not the machine's own.
        return ["run", "--memory", "1G", "--network", "none", "--confine", "off", "-v", f"{load}:/load:ro", *root, "--", "/bin/sh", "-c", SCRIPT, "sh", *read, *trees]

    # The kept disk brings the guest's driver for ext4.
    disks = ["--backend", "block", "--keep", "--machine", "q35", "--name", "bench", REFERENCE]
    rootfs = ["--rootfs", tree, "-u", "0:0", "-w", "/"]
    return [
        Guest(words(["--backend", "direct", REFERENCE], "direct=")),
        Guest(words(rootfs, f"{ALWAYS}=")),
        Guest(words(rootfs, f"{AUTO}="), "auto"),
        Guest(words(disks, "block=", f"{EROFS}=/run/erofs/root", "ext4 on virtio-blk=/run/ext4"), "disk"),
    ]


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
        self.kept, programs = kept, os.path.abspath(programs)
        below = lambda name: os.path.join(work, name)
        self.environment = dict(os.environ, HOME=work, LAMINA_STORE=below("store"), XDG_RUNTIME_DIR=below("run"), XDG_STATE_HOME=below("state"))
        os.mkdir(self.environment["XDG_RUNTIME_DIR"], 0o700)
        self.load = below("load")
        os.mkdir(self.load)
        for program, directory in (("tree-load", self.load), ("lamina", work)):
            peers.run("strip", shutil.copy(os.path.join(programs, program), directory))
        # Not by root: a hypervisor of root sees only its own machine's files, even unconfined.
        self.lamina = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", below("lamina")]
        self.figures = Figures()
        self.wrapped = below("bin")
        wrap(self.wrapped, shutil.which("virtiofsd"), kept.ext4, kept.erofs)
        peers.run("chown", "--recursive", f"{USER}:", work)

    def prepare(self):
        peers.run(*self.lamina, "import", self.kept.layout, "--tag", REFERENCE, env=self.environment)

    def guest(self, guest):
        environment = dict(self.environment)
        if guest.programs:
            environment["PATH"] = f"{self.wrapped}/{guest.programs}:{environment['PATH']}"
        done = subprocess.run([*self.lamina, *guest.words], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=GUEST_TIMEOUT)
        if done.returncode:
            sys.exit(f"error: lamina {' '.join(guest.words[:3])}: {done.stderr.strip()[-2000:]}")
        self.figures.take(done.stdout)

    def round(self):
        for guest in guests(self.load, self.kept.tree, BENCH):
            self.guest(guest)
        peers.run(*self.lamina, "rm", "bench", env=self.environment)


def goals(seconds):
    rows = []
    for (workload, state), figures in seconds.items():
        # Warm, most are answered by the guest itself, whatever serves its root.
        alike = 1 if state == "cold" else 1.1
        half = state == "warm" and workload in ("find with stat", "random stat", "missing names")
        for ours, theirs, most in (
            ("direct", AUTO, 0.5 if half else alike),
            ("direct", ALWAYS, alike),
            ("block", EROFS, alike),
            ("block", "direct", None),
        ):
            values = [our / their for our, their in zip(figures[ours], figures[theirs])]
            rows.append(report.Row(f"{workload}, {state}: {ours} / {theirs}", "x", values, most))
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
        wrap(os.path.join(outer.inside, "bin"), nested.at("programs/virtiofsd"), nested.at("tree.ext4"), nested.at("tree.erofs"))
        commands = [(guest.words, guest.programs) for guest in guests(nested.at("load"), nested.at("tree"), DEBIAN)]
        figures.take(outer.run([*commands, (["rm", "bench"], None)] * rounds))
    return figures, "QEMU with KVM, which an emulated outer guest of one processor runs"


def main():
    images, programs, results, rounds, accelerator = *sys.argv[1:4], int(sys.argv[4]), sys.argv[5]
    figures, how = (by_kvm if accelerator == "kvm" else emulated)(images, programs, rounds)
    notes = [
        f"{time.strftime('%Y-%m-%d')}, {how}, {rounds} rounds, medians",
        "/usr/share of the image; cold: the guest's caches dropped; warm: again after 1.2 s; virtiofsd serves the unpacked tree; EROFS (below an overlay as a root is) and ext4 are disks beside the root by block",
    ]
    title = "The root of a VM beside other ways to give it the same tree"
    name = "serve-vm-kvm" if accelerator == "kvm" else "serve-vm"
    rows = goals(figures.seconds)
    report.write(results, name, title, notes, rows)
    report.write_groups(results, f"{name}-peers", title, notes, figures.names, figures.seconds)
    if any(row.holds is False for row in rows):
        sys.exit(1)


main()
