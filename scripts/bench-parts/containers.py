"""Measures containers beside podman's: both of the user lamina-test, of the same image, without a network, by the same runtime."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time

import report

USER = "lamina-test"
REFERENCE = "bench.test/image:1"
# The image with npm and pip.
WORKPLACE = "bench.test/work:1"
TOGETHER = 50

# Run in a container. Each line is what to measure and a shell command; the best of five, after one that fills the caches.
WORK = {
    "find": "find /usr -xdev > /dev/null",
    "tar": "tar -cf - /usr/lib | cat > /dev/null",
    "small reads": "find /usr -xdev -type f -size -16k -print0 | xargs -0 cat > /dev/null",
}

# The same for what installs packages, in the other image, from files that are shared: no network is measured. The best of
# two, because each takes seconds.
INSTALL = {
    "npm ci": "cd /srv/web && node /usr/local/lib/node_modules/npm/bin/npm-cli.js ci --offline --cache /srv/cache --silent --no-audit --no-fund",
    "pip install": "rm -rf /srv/pip && python3 -m pip install --quiet --no-index --find-links /files/wheels --target /srv/pip numpy django requests",
}
PREPARE = "mkdir /srv/web && cp /files/web/package*.json /srv/web/ && cp -r /files/cache /srv/cache"

MEASURE = """
import json, subprocess, sys, time
subprocess.run(["sh", "-c", sys.argv[2]], check=True)
def best(command):
    taken = []
    for _ in range(int(sys.argv[3])):
        begin = time.monotonic()
        subprocess.run(["sh", "-c", command], check=True)
        taken.append(time.monotonic() - begin)
    return min(taken[1:])
print(json.dumps({name: best(command) for name, command in json.loads(sys.argv[1]).items()}))
"""


class Bench:
    def __init__(self, images, programs):
        # A short name: podman's cleanup refuses a run directory of more than 50 characters, and podman then waits for 20 s.
        self.directory = tempfile.mkdtemp(prefix="lamina-bench.", dir="/var/tmp")
        account = pwd.getpwnam(USER)
        os.chmod(self.directory, 0o755)
        for name in ("home", "store", "state", "run", "tmp", "bin"):
            path = os.path.join(self.directory, name)
            os.mkdir(path)
            os.chown(path, account.pw_uid, account.pw_gid)
        below = lambda name: os.path.join(self.directory, name)
        self.program = shutil.copy(os.path.join(programs, "lamina"), below("bin"))
        self.store, self.state = below("store"), below("state")
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": below("home"), "XDG_RUNTIME_DIR": below("run"), "XDG_STATE_HOME": self.state,
            "LAMINA_STORE": self.store, "TMPDIR": below("tmp"), "LAMINA_RUNTIME": "runc", "LAMINA_ENGINE": "container",
        }
        self.become = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--"]
        self.files = below("files")
        make_files(self.files)
        self.images = {}
        for reference, name in ((REFERENCE, "debian"), (WORKPLACE, "work")):
            layout = os.path.join(os.path.realpath(images), name)
            self.run([self.program, "import", layout, "--tag", reference])
            self.images[reference] = self.run([*self.podman("pull", "--quiet"), f"oci:{layout}:latest"]).strip()

    def podman(self, *words):
        return ["podman", "--storage-driver", "overlay", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--log-level", "error", *words]

    def run(self, command):
        done = subprocess.run([*self.become, *command], env=self.environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"error: {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def ours(self, *words):
        return [self.program, "run", "--network", "none", "-w", "/", REFERENCE, *words]

    def theirs(self, *words, reference=REFERENCE, options=()):
        return [*self.podman("run", "--rm", "--ulimit", "host", "--network", "none", "-w", "/", *options), self.images[reference], *words]

    def ours_on_disk(self, *words):
        """A machine that keeps what it writes, because podman's containers write to the disk, too."""
        return [self.program, "run", "--network", "none", "-w", "/", "--keep", "--name", "w", "-v", f"{self.files}:/files:ro", WORKPLACE, *words]

    def install_seconds(self):
        measure = ("python3", "-c", MEASURE, json.dumps(INSTALL), PREPARE, "3")
        ours = json.loads(self.run(self.ours_on_disk(*measure)))
        self.run([self.program, "rm", "w"])
        theirs = self.theirs(*measure, reference=WORKPLACE, options=("-v", f"{self.files}:/files:ro"))
        return ours, json.loads(self.run(theirs))

    def milliseconds(self, command):
        begin = time.monotonic()
        self.run(command)
        return (time.monotonic() - begin) * 1000

    def together_seconds(self, command):
        begin = time.monotonic()
        started = [subprocess.Popen([*self.become, *command], env=self.environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(TOGETHER)]
        if any(one.wait() for one in started):
            sys.exit(f"error: {' '.join(command)}: not all of {TOGETHER} ended well")
        return time.monotonic() - begin

    def work_seconds(self, command):
        return json.loads(self.run([*command, "python3", "-c", MEASURE, json.dumps(WORK), "true", "6"]))

    def remove(self):
        # What podman has stored belongs to subordinate ids.
        subprocess.run([*self.become, *self.podman("system", "reset", "--force")], env=self.environment, cwd="/", stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def make_files(directory):
    """What the installations need: wheels for the image's Python, and a project of npm with a cache of its packages."""
    web, wheels = os.path.join(directory, "web"), os.path.join(directory, "wheels")
    os.makedirs(web)
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run(["python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--python-version", "3.11",
        "--implementation", "cp", "--platform", "manylinux2014_x86_64", "--dest", wheels, "numpy==2.2.6", "django==5.1.7", "requests==2.32.3"], **quiet)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--no-omit-lockfile-registry-resolved", "--cache", os.path.join(directory, "cache"),
        "express@4.21.2", "typescript@5.8.3", "eslint@9.23.0", "date-fns@4.1.0"], cwd=web, **quiet)
    shutil.rmtree(os.path.join(web, "node_modules"))
    subprocess.run(["chmod", "-R", "a+rX", directory], check=True)


def disk_bytes(directory):
    return sum(os.lstat(os.path.join(root, name)).st_blocks * 512 for root, _, names in os.walk(directory) for name in names)


def rows(images, programs, rounds):
    bench = Bench(images, programs)
    try:
        return measure(bench, rounds)
    finally:
        bench.remove()


def measure(bench, rounds):
    # The first start of each finds out what the host can do.
    bench.run(bench.ours("true"))
    bench.run(bench.theirs("true"))
    ours, theirs, at_once, their_at_once, grown, kept = [], [], [], [], [], []
    for number in range(rounds):
        print(f"    containers, round {number + 1} of {rounds}", flush=True)
        for _ in range(5):
            ours.append(bench.milliseconds(bench.ours("true")))
            theirs.append(bench.milliseconds(bench.theirs("true")))
    for _ in range(max(1, rounds // 2)):
        at_once.append(bench.together_seconds(bench.ours("true")))
        their_at_once.append(bench.together_seconds(bench.theirs("true")))
    for number in range(rounds):
        before = disk_bytes(bench.store)
        bench.run([bench.program, "run", "--detach", "--name", "m", "--network", "none", REFERENCE, "--", "sleep", "1000"])
        leases = sum(disk_bytes(os.path.join(bench.store, name)) for name in ("leases", "pins"))
        grown.append(disk_bytes(bench.store) - leases - before)
        kept.append(disk_bytes(os.path.join(bench.state, "lamina/machines/m")) / 1024)
        bench.run([bench.program, "rm", "--force", "m"])
    work = {name: ([], []) for name in WORK}
    for _ in range(rounds):
        for position, command in enumerate((bench.ours(), bench.theirs())):
            for name, seconds in bench.work_seconds(command).items():
                work[name][position].append(seconds * 1000)
    installs = {name: ([], []) for name in INSTALL}
    for _ in range(rounds):
        for position, times in enumerate(bench.install_seconds()):
            for name, seconds in times.items():
                installs[name][position].append(seconds * 1000)
    ratio = lambda ours, theirs: [a / b for a, b in zip(ours, theirs)]
    return [
        report.Row("container: lamina run IMAGE true", "ms", ours),
        report.Row("container: podman run IMAGE true", "ms", theirs),
        report.Row("container: lamina / podman", "x", ratio(ours, theirs), 0.5),
        report.Row(f"container: {TOGETHER} at once", "s", at_once),
        report.Row(f"container: {TOGETHER} at once, podman", "s", their_at_once),
        report.Row("container: growth of the store", "bytes", grown, 0),
        report.Row("container: its directory", "KiB", kept, 64),
        *(report.Row(f"container: warm {name} / podman's (kernel overlayfs on unpacked layers)", "x", ratio(*pair), 1.15) for name, pair in work.items()),
        *(report.Row(f"container: {name} / podman's (kernel overlayfs on unpacked layers)", "x", ratio(*pair), 1.1) for name, pair in installs.items()),
    ]
