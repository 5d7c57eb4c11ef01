"""Runs commands of `lamina` in an outer guest that has KVM, where this machine has none: QEMU's TCG emulates AMD SVM.

The outer guest's files are in memory, so a peer is no slower because of the outer guest's own root.
"""

import os
import shlex
import shutil
import subprocess
import sys

import peers

OUTER = "bench.test/outer:1"
# Where the outer guest has its copy of `Outer.inside`.
PLACE = "/tmp/bench"

SCRIPT = """
set -e
modprobe kvm_amd
modprobe fuse
chmod 0666 /dev/kvm /dev/fuse
useradd --create-home lamina-test
cp -a /bench {place}
mkdir -m 700 {place}/run
mkdir {place}/state
chown -R lamina-test: {place}/store {place}/run {place}/state
export LAMINA_STORE={place}/store XDG_RUNTIME_DIR={place}/run XDG_STATE_HOME={place}/state HOME={place}/state
# With the programs in a directory of {place}/bin, if one is named.
lamina() ( PATH={place}/bin/$1:{place}/programs:$PATH; shift; exec setpriv --reuid lamina-test --regid lamina-test --clear-groups -- {place}/programs/lamina "$@" < /dev/null )
{commands}
"""


def at(name):
    return f"{PLACE}/{name}"


class Outer:
    """An outer guest, before it starts. What is put into the directory `inside` is below `PLACE` in the guest."""

    def __init__(self, images, programs, work, reference):
        os.chmod(work, 0o755)
        self.work, self.inside = work, os.path.join(work, "inside")
        self.lamina = os.path.join(os.path.abspath(programs), "lamina")
        self.environment = dict(os.environ, LAMINA_STORE=os.path.join(work, "store"), XDG_RUNTIME_DIR=os.path.join(work, "run"), XDG_STATE_HOME=os.path.join(work, "state"))
        for name in ("inside", "inside/programs", "inside/load"):
            os.mkdir(os.path.join(work, name))
        os.mkdir(self.environment["XDG_RUNTIME_DIR"], 0o700)
        for program, directory in (("lamina", "programs"), ("tree-load", "load")):
            copy = shutil.copy(os.path.join(programs, program), os.path.join(self.inside, directory))
            peers.run("strip", copy)
        shutil.copy(shutil.which("virtiofsd"), os.path.join(self.inside, "programs"))
        peers.step("the store, and trees of the image", lambda: self.prepare(images, reference))

    def prepare(self, images, reference):
        below = lambda name: os.path.join(self.inside, name)
        peers.run(self.lamina, "import", os.path.join(images, "outer"), "--tag", OUTER, env=self.environment)
        peers.run(self.lamina, "--store", below("store"), "import", os.path.join(images, "debian"), "--tag", reference, env=self.environment)
        peers.run("umoci", "unpack", "--image", f"{os.path.join(images, 'debian')}:latest", os.path.join(self.work, "bundle"))
        os.rename(os.path.join(self.work, "bundle", "rootfs"), below("tree"))
        peers.run("mkfs.erofs", "--quiet", below("tree.erofs"), below("tree"))
        with open(below("tree.ext4"), "wb") as file:
            file.truncate(2 << 30)
        peers.run("mkfs.ext4", "-q", "-d", below("tree"), below("tree.ext4"))
        peers.run("chmod", "-R", "a+rX", below("tree"), below("store"))

    def run(self, commands):
        """Runs `lamina` with each list of arguments and, if it is not `None`, with the programs in this directory below `bin`. Returns the output of all."""
        with open(os.path.join(self.work, "inside", "commands"), "w") as file:
            file.write(SCRIPT.format(place=PLACE, commands="\n".join(f"lamina {programs or 'none'} {shlex.join(words)}" for words, programs in commands)))
        shares = [f"{self.inside}:/bench:ro", "/boot:/boot:ro", "/lib/modules:/lib/modules:ro"]
        command = [self.lamina, "run", "--accel", "tcg", "--cpus", "1", "--memory", "6G", "--network", "none", "-u", "0:0", "-w", "/"]
        command += [word for share in shares for word in ("-v", share)]
        done = subprocess.run([*command, OUTER, "--", "/bin/sh", "/bench/commands"], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"error: the outer guest: {done.stderr.strip()[-2000:]}")
        return done.stdout
