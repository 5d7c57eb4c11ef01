"""The peers of Lamina's mount: other programs that show the same tree. Needs root.

Everything that takes long to make is kept in DIR/serve beside the benchmark's image, until that is replaced.
"""

import contextlib
import fcntl
import gzip
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time

LARGE_BYTES = 1 << 30
RINGS = "/sys/module/fuse/parameters/enable_uring"
LARGE = "srv/large/content.bin"
# Raise it when kept files are made in another way.
KEPT_VERSION = "2"


def run(*command, **keywords):
    """Runs a command to its end. Returns its standard output. A failure ends the benchmark with its message."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def step(what, action):
    begin = time.monotonic()
    print(f"==> {what}", flush=True)
    action()
    print(f"    took {time.monotonic() - begin:.1f} s", flush=True)


def layer_blobs(layout):
    """The gzip layers of the image `latest`, lowest first."""
    blob = lambda digest: os.path.join(layout, "blobs", *digest.split(":"))
    with open(os.path.join(layout, "index.json")) as file:
        index = json.load(file)
    tagged = next(each for each in index["manifests"] if each["annotations"]["org.opencontainers.image.ref.name"] == "latest")
    with open(blob(tagged["digest"])) as file:
        return [blob(layer["digest"]) for layer in json.load(file)["layers"]]


class Kept:
    """The trees and images that the peers mount."""

    def __init__(self, images):
        self.layout = os.path.join(images, "bench")
        self.directory = os.path.join(images, "serve")
        self.tree = os.path.join(self.directory, "tree")
        self.layers = [os.path.join(self.directory, f"layer-{number}") for number in range(len(layer_blobs(self.layout)))]
        # On top of the image, for every participant: the image has no file of this size.
        self.large = os.path.join(self.directory, "large")
        self.erofs = os.path.join(self.directory, "tree.erofs")
        self.ext4 = os.path.join(self.directory, "tree.ext4")
        self.squashfs = os.path.join(self.directory, "tree.squashfs")
        with open(os.path.join(images, "bench.recipe")) as file:
            self.stamp = file.read().strip() + " " + KEPT_VERSION

    def prepare(self):
        stamp = os.path.join(self.directory, "stamp")
        if not (os.path.exists(stamp) and open(stamp).read() == self.stamp):
            shutil.rmtree(self.directory, ignore_errors=True)
            os.makedirs(self.directory)
            os.chmod(self.directory, 0o700)
            step("a large file", self.make_large)
            step("layers, unpacked one by one", self.unpack_layers)
            step("the tree, by umoci unpack", self.unpack_tree)
            step("an EROFS image of it", lambda: run("mkfs.erofs", "--quiet", self.erofs, self.tree))
            step("an ext4 image of it", self.make_ext4)
            step("a squashfs image of it", lambda: run("mksquashfs", self.tree, self.squashfs, "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "3"))
            with open(stamp, "w") as file:
                file.write(self.stamp)
        os.sync()

    def make_large(self):
        path = os.path.join(self.large, LARGE)
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as file:
            for _ in range(LARGE_BYTES >> 20):
                file.write(os.urandom(1 << 20))

    def make_ext4(self):
        with open(self.ext4, "wb") as file:
            file.truncate(8 << 30)
        run("mkfs.ext4", "-q", "-d", self.tree, self.ext4)

    def unpack_layers(self):
        for blob, directory in zip(layer_blobs(self.layout), self.layers):
            os.mkdir(directory)
            run("tar", "--extract", "--gzip", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--file", blob, "--directory", directory)
            for root, _, names in os.walk(directory):
                for name in names:
                    path = os.path.join(root, name)
                    if name == ".wh..wh..opq":
                        os.remove(path)
                        os.setxattr(root, "trusted.overlay.opaque", b"y")
                    elif name.startswith(".wh."):
                        os.remove(path)
                        os.mknod(os.path.join(root, name.removeprefix(".wh.")), stat.S_IFCHR, os.makedev(0, 0))

    def unpack_tree(self):
        bundle = os.path.join(self.directory, "bundle")
        run("umoci", "unpack", "--image", f"{self.layout}:latest", bundle)
        os.rename(os.path.join(bundle, "rootfs"), self.tree)
        shutil.rmtree(bundle)
        run("cp", "--archive", f"{self.large}/.", self.tree)


class Peer:
    """One way to show the tree at `point`.

    `also` says that it takes part in the first round only, `read_ahead` that the mount gets other KiB of it than it asked for,
    and `rings` that FUSE over io_uring is switched on while it is mounted.
    """

    def __init__(self, name, mount=None, unmount=("umount",), also=False, read_ahead=None, rings=False):
        self.name, self.mount, self.unmount, self.also, self.read_ahead, self.rings = name, mount, unmount, also, read_ahead, rings
        self.point, self.is_up = None, False

    def up(self, environment):
        if self.mount:
            with rings_switched_on() if self.rings else contextlib.nullcontext():
                run(*self.mount, env=environment)
            self.is_up = True
        if self.read_ahead:
            device = os.stat(self.point).st_dev
            with open(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb", "w") as file:
                file.write(str(self.read_ahead))

    def down(self, environment):
        if self.is_up:
            for attempt in range(50):
                done = subprocess.run([*self.unmount, self.point], env=environment, stderr=subprocess.PIPE, text=True)
                if done.returncode == 0:
                    self.is_up = False
                    return
                # A program that has just ended may still hold it.
                time.sleep(0.1)
            sys.exit(f"error: {self.name}: cannot unmount {self.point}: {done.stderr.strip()}")


@contextlib.contextmanager
def rings_switched_on():
    """Lets a new mount use FUSE over io_uring. The kernel's parameter is put back."""
    with open(RINGS, "r+") as parameter:
        fcntl.flock(parameter, fcntl.LOCK_EX)
        before = parameter.read()
        try:
            write_over(parameter, "Y")
            yield
        finally:
            write_over(parameter, before)


def write_over(file, text):
    file.seek(0)
    file.write(text)
    file.flush()


def needed(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        sys.exit(f"error: missing: {', '.join(missing)}; run scripts/bench serve, which installs them, or scripts/setup")


def all_peers(kept, work, programs, base, new_fuse_overlayfs):
    """Lamina first, then its peers."""
    needed("mkfs.erofs", "mksquashfs", "squashfuse_ll", "fuse-overlayfs", "unionfs", "umoci", new_fuse_overlayfs)
    lower = ":".join([kept.large, *reversed(kept.layers)])
    branches = ":".join(f"{layer}=RO" for layer in [kept.large, *reversed(kept.layers)])
    at = lambda name: os.path.join(work, name)
    served, taken_away = (os.path.join(programs, "composefs-fuse"), base), (os.path.join(programs, "lamina"), "umount")
    peers = [
        Peer("lamina", (*served, at("lamina")), taken_away),
        Peer("ext4, unpacked"),
        Peer("overlayfs", ("mount", "-t", "overlay", "-o", f"ro,lowerdir={lower}", "none", at("overlayfs"))),
        Peer("EROFS", ("mount", "-t", "erofs", "-o", "ro,loop", kept.erofs, at("EROFS"))),
        Peer("fuse-overlayfs 1.10", ("fuse-overlayfs", "-o", f"ro,lowerdir={lower}", at("fuse-overlayfs 1.10"))),
        # How a mount by a user other than root differs.
        Peer("lamina, user's", (*served, at("lamina, user's")), taken_away, also=True, read_ahead=128),
        Peer("fuse-overlayfs 2.0", (new_fuse_overlayfs, "-o", f"ro,lowerdir={lower}", at("fuse-overlayfs 2.0")), also=True),
        Peer("squashfuse", ("squashfuse_ll", kept.squashfs, at("squashfuse")), also=True),
        Peer("unionfs-fuse", ("unionfs", "-o", "ro", branches, at("unionfs-fuse")), also=True),
    ]
    if os.path.exists(RINGS):
        peers.insert(1, Peer("lamina, io_uring", (*served, at("lamina, io_uring")), taken_away, rings=True))
    for peer in peers:
        peer.point = at(peer.name) if peer.mount else kept.tree
        if peer.mount:
            os.mkdir(peer.point)
    return peers
