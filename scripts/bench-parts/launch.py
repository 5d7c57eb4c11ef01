"""Measures what machines cost to start and to run, beside QEMUs that boot only the same kernel. scripts/bench starts it."""

import ctypes
import glob
import os
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import containers
import report

REFERENCE = "bench.test/image:1"
UP = b"lamina: init is up"
# An emulated guest keeps a core busy while it boots, so ten at once measure nothing on two cores.
TOGETHER = 10 if os.cpu_count() >= 8 else 4
# A hypervisor that no registry has. Only its start is measured, so it need not be able to boot here.
CLOUD_HYPERVISOR = os.environ.get("LAMINA_CLOUD_HYPERVISOR")
# One of the largest files of the image, which no start reads.
LARGE = "/usr/bin/python3.11"
SHARING = 10


class Opens:
    """Records when a file was last opened. Executing a file opens it, in every mount namespace."""

    IN_OPEN = 0x20

    def __init__(self, path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.events = libc.inotify_init1(0)
        if self.events < 0 or libc.inotify_add_watch(self.events, os.fsencode(path), self.IN_OPEN) < 0:
            sys.exit(f"error: cannot watch {path}: {os.strerror(ctypes.get_errno())}")
        self.time = 0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while os.read(self.events, 4096):
            self.time = time.monotonic_ns()

    def last(self):
        return self.time


class Bench:
    def __init__(self, images, programs, work):
        self.layout = os.path.join(images, "debian")
        self.lamina_program = os.path.join(os.path.abspath(programs), "lamina")
        self.work = work
        self.store = os.path.join(work, "store")
        self.state = os.path.join(work, "state")
        self.environment = dict(os.environ, LAMINA_STORE=self.store, XDG_STATE_HOME=self.state, XDG_CACHE_HOME=os.path.join(work, "cache"))
        # A socket's path has at most 107 bytes.
        self.run_directory = tempfile.mkdtemp(prefix="lamina-bench.", dir="/tmp")
        self.environment["XDG_RUNTIME_DIR"] = self.run_directory
        self.qemu = shutil.which("qemu-system-x86_64")
        self.executed = Opens(os.path.realpath(self.qemu))
        if CLOUD_HYPERVISOR:
            programs = os.path.join(work, "bin")
            os.mkdir(programs)
            self.peer = Opens(shutil.copy(CLOUD_HYPERVISOR, os.path.join(programs, "cloud-hypervisor")))
            self.environment["PATH"] = f"{programs}:{os.environ['PATH']}"

    def command(self, *arguments):
        return [self.lamina_program, *arguments]

    def lamina(self, *arguments):
        done = subprocess.run(self.command(*arguments), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"error: lamina {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def start(self):
        """Milliseconds from `lamina run` to the hypervisor's exec, and seconds from there to the command."""
        begin = time.monotonic_ns()
        run = subprocess.Popen(self.command("run", "--accel", "tcg", REFERENCE, "--", "/bin/echo", "here"), env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if run.stdout.readline() != b"here\n":
            sys.exit("error: the command did not run")
        here = time.monotonic_ns()
        run.wait()
        executed = self.executed.last()
        return (executed - begin) / 1e6, (here - executed) / 1e9

    def start_peer(self):
        """Milliseconds from `lamina run` to Cloud Hypervisor's exec."""
        begin = time.monotonic_ns()
        run = subprocess.Popen(self.command("run", "--engine", "cloud-hypervisor", REFERENCE, "--", "/bin/echo", "here"), env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.peer.last() < begin and run.poll() is None:
            time.sleep(0.001)
        # Its exec is the last of the opens that a start makes.
        time.sleep(0.2)
        executed = self.peer.last()
        run.terminate()
        run.wait()
        if executed < begin:
            sys.exit("error: Cloud Hypervisor was not started")
        return (executed - begin) / 1e6

    def ask(self):
        """Asks what a machine's hypervisor is told."""
        self.told = shlex.split(self.lamina("run", "--dry-run", "--accel", "tcg", REFERENCE, "--", "/bin/echo", "here").replace("\\\n", " "), comments=True)

    def bare(self):
        """Boots a QEMU with only the kernel, initramfs and processor of a machine, to its init."""
        told = self.told
        value = lambda name: told[told.index(name) + 1]
        return subprocess.Popen(
            [self.qemu, "-machine", value("-machine").split(",")[0], "-accel", value("-accel"), "-cpu", value("-cpu"), "-smp", value("-smp"), "-m", value("-m"),
             "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-kernel", value("-kernel"), "-initrd", value("-initrd"), "-append", value("-append"), "-serial", "stdio"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def bare_seconds(self, count):
        begin = time.monotonic()
        guests = {guest.stdout: guest for guest in (self.bare() for _ in range(count))}
        seen = dict.fromkeys(guests, b"")
        waiting = set(guests)
        while waiting:
            for stream in select.select(list(waiting), [], [], 120)[0] or sys.exit("error: a bare guest did not boot"):
                piece = os.read(stream.fileno(), 4096)
                seen[stream] += piece
                if UP in seen[stream]:
                    waiting.remove(stream)
                elif not piece:
                    sys.exit("error: a bare guest ended early")
        taken = time.monotonic() - begin
        for guest in guests.values():
            guest.kill()
            guest.wait()
        return taken

    def together_seconds(self, count):
        begin = time.monotonic()
        runs = [subprocess.Popen(self.command("run", "--accel", "tcg", "--detach", "--name", f"m{number}", REFERENCE, "--", "sleep", "1000"), env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for number in range(count)]
        if any(run.wait() for run in runs):
            sys.exit("error: a machine did not start")
        return time.monotonic() - begin

    def memory_mb(self, name, what):
        """Memory of a machine's launcher, which serves its root, and of its cleaner; not of its hypervisor."""
        total = 0
        for path in glob.glob("/proc/[0-9]*"):
            try:
                words = open(f"{path}/cmdline", "rb").read().split(b"\0")
                if len(words) > 2 and words[1] in (b"__supervise", b"__watch") and words[2] == name.encode():
                    line = next(line for line in open(f"{path}/status") if line.startswith(what))
                    total += int(line.split()[1]) * 1024
            except OSError:
                continue
        return total / 1e6

    def read(self, name, path):
        """Reads a file of the image to its end in a machine. Returns its size."""
        return int(self.lamina("exec", name, "--", "sh", "-c", f"cat {path} | wc -c"))

    def blobs(self):
        return [path for name in ("blob", "thin") for path in glob.glob(os.path.join(self.store, "layers/sha256/*", name))]

    def cached(self):
        """Bytes of the layers that the host's page cache holds."""
        told = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", *self.blobs()], capture_output=True, text=True, check=True).stdout
        return sum(int(line) for line in told.split())

    def forget(self):
        """Drops the layers from the page cache; no process has them mapped."""
        for path in self.blobs():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def stop_seconds(self, name):
        begin = time.monotonic()
        self.lamina("stop", name)
        return time.monotonic() - begin


def disk_bytes(directory):
    return sum(os.lstat(os.path.join(root, name)).st_blocks * 512 for root, _, names in os.walk(directory) for name in names)


def one_machine(bench, rounds):
    to_exec, to_command, bare, peer = [], [], [], []
    if CLOUD_HYPERVISOR:
        # The first start asks for its version.
        bench.start_peer()
    for number in range(rounds):
        print(f"    round {number + 1} of {rounds}", flush=True)
        first, second = bench.start()
        to_exec.append(first)
        to_command.append(second)
        bare.append(bench.bare_seconds(1))
        if CLOUD_HYPERVISOR:
            peer.append(bench.start_peer())
    peers = [
        report.Row("lamina run to the exec of Cloud Hypervisor", "ms", peer),
        report.Row("the same less QEMU's", "ms", [a - b for a, b in zip(peer, to_exec)], 10),
    ]
    return [
        report.Row("lamina run to the hypervisor's exec", "ms", to_exec, 50),
        report.Row("from there to the command", "s", to_command),
        report.Row("a bare boot of the same kernel to its init", "s", bare),
        report.Row("to the command / bare boot", "x", [a / b for a, b in zip(to_command, bare)], 1.25),
        *(peers if CLOUD_HYPERVISOR else []),
    ]


def many_machines(bench, rounds):
    together, bare, grown, directories, resident, own, stops = [], [], [], [], [], [], []
    names = [f"m{number}" for number in range(TOGETHER)]
    for _ in range(max(1, rounds // 2)):
        before = disk_bytes(bench.store)
        together.append(bench.together_seconds(TOGETHER))
        # The record of a lease's owner is removed with its machine.
        leases = disk_bytes(os.path.join(bench.store, "leases")) + disk_bytes(os.path.join(bench.store, "pins"))
        grown.append(disk_bytes(bench.store) - leases - before)
        directories += [disk_bytes(os.path.join(bench.state, "lamina/machines", name)) / 1024 for name in names]
        resident += [bench.memory_mb(name, "VmRSS:") for name in names]
        own += [bench.memory_mb(name, "RssAnon:") for name in names]
        stops += [bench.stop_seconds(name) for name in names]
        bench.lamina("rm", *names)
        bare.append(bench.bare_seconds(TOGETHER))
    left = sum(len(files) for _, _, files in os.walk(os.path.join(bench.state, "lamina/machines")))
    return [
        report.Row(f"{TOGETHER} machines at once, all ready", "s", together),
        report.Row(f"{TOGETHER} bare QEMUs at once", "s", bare),
        report.Row("at once / bare at once", "x", [a / b for a, b in zip(together, bare)], 1.3),
        report.Row("growth of the store", "bytes", grown, 0),
        report.Row("a machine's directory", "KiB", directories, 64),
        report.Row("launcher and cleaner of a machine, resident", "MB", resident, 15),
        report.Row("of that, neither of files nor of guests", "MB", own),
        report.Row("stop", "s", stops, 1),
        report.Row("files left by machines that are gone", "", [left], 0),
    ]


def one_file(bench, backend):
    """Measures what the host keeps of a file that many machines read: pages of its layer, and memory of their launchers."""
    names = [f"m{number}" for number in range(SHARING)]
    for name in names:
        bench.lamina("run", "--accel", "tcg", "--backend", backend, "--detach", "--memory", "192M", "--name", name, REFERENCE, "--", "sleep", "1000")
        # The programs that read it are loaded before.
        bench.read(name, "/etc/passwd")
    bench.forget()
    before, own = bench.cached(), sum(bench.memory_mb(name, "RssAnon:") for name in names)
    size = bench.read(names[0], LARGE)
    first = bench.cached() - before
    for name in names[1:]:
        bench.read(name, LARGE)
    all_of_them, own = bench.cached() - before, sum(bench.memory_mb(name, "RssAnon:") for name in names) - own
    bench.lamina("rm", "--force", *names)
    return [
        report.Row(f"{backend}: page cache for a file that one machine reads, with what is read ahead", "MB", [first / 1e6]),
        report.Row(f"{backend}: that file's size", "MB", [size / 1e6]),
        report.Row(f"{backend}: page cache once {SHARING} machines have read it / once one has", "x", [all_of_them / first], 1.05),
        report.Row(f"{backend}: growth of all their launchers meanwhile", "MB", [own]),
    ]


def block_metadata(bench):
    """Measures what the disk of `--backend block` adds to the store."""
    maps = [os.path.getsize(path) for path in glob.glob(os.path.join(bench.store, "bases/*/erofs-*"))]
    layers = sum(os.path.getsize(path) for path in bench.blobs())
    return [report.Row("block: what the root's disk adds to the store / layers", "x", [sum(maps) / layers], 0.02)]


def main():
    images, programs, results, rounds = *sys.argv[1:4], int(sys.argv[4])
    with tempfile.TemporaryDirectory(prefix="bench.", dir=images) as work:
        bench = Bench(images, programs, work)
        bench.lamina("import", bench.layout, "--tag", REFERENCE)
        bench.lamina("prepare", REFERENCE)
        # The first start makes the initramfs.
        bench.start()
        bench.ask()
        rows = one_machine(bench, rounds) + many_machines(bench, rounds) + one_file(bench, "direct") + one_file(bench, "block") + block_metadata(bench)
        os.rmdir(os.path.join(bench.run_directory, "lamina"))
        os.rmdir(bench.run_directory)
    rows += containers.rows(images, programs, rounds)
    notes = [f"emulated guests (TCG) of 512 MiB; medians of {rounds} interleaved rounds"]
    notes.append("the page cache is the host's: what a guest's own kernel caches is in that guest's memory, once for each")
    notes.append("containers: an ordinary user's, by runc; podman has the same image unpacked in its own storage")
    if TOGETHER < 10:
        notes.append(f"{TOGETHER} at once instead of ten, because this machine has {os.cpu_count()} cores")
    report.write(results, "launch", "Machines: start, run, stop", notes, rows)
    if any(row.holds is False for row in rows):
        sys.exit(1)


main()
