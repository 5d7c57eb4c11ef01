"""Measures a large store that many processes use. scripts/bench starts it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import report
from image import Bench, file_bytes

LAYERS = 200
ENTRIES = 10_000
IMAGES = 40
# Each image has layers of its own and some in common with others.
OWN, SHARED = 4, 4
PROCESSES = 32


def header(name, kind=b"0", size=0):
    """One ustar header: mode 0644, owned by root, dated one second after the epoch."""
    fields = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % 1 + b" " * 8 + kind + b"\0" * 100 + b"ustar\00000"
    block = bytearray(fields.ljust(512, b"\0"))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def layer_tars():
    """The tars of the layers: the same empty files in each, and one name that makes the layers differ."""
    body = b"".join(header(f"usr/share/directory-{number // 100:03}/file-{number:05}") for number in range(ENTRIES - 1))
    for number in range(LAYERS):
        yield header(f"layer-{number:03}") + body + b"\0" * 1024


class Layout:
    """An OCI layout of plain layers."""

    def __init__(self, directory):
        self.directory = directory
        self.manifests = []
        os.makedirs(os.path.join(directory, "blobs/sha256"))

    def put(self, media_type, content):
        digest = hashlib.sha256(content).hexdigest()
        with open(os.path.join(self.directory, "blobs/sha256", digest), "wb") as file:
            file.write(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def put_json(self, media_type, document):
        return self.put(media_type, json.dumps(document).encode())

    def image(self, name, layers):
        config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}}
        config = self.put_json("application/vnd.oci.image.config.v1+json", config)
        manifest_type = "application/vnd.oci.image.manifest.v1+json"
        manifest = self.put_json(manifest_type, {"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers})
        self.manifests.append(dict(manifest, annotations={"org.opencontainers.image.ref.name": name}))

    def finish(self):
        for name, document in ("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", {"schemaVersion": 2, "manifests": self.manifests}):
            with open(os.path.join(self.directory, name), "w") as file:
                json.dump(document, file)


def large_store(bench):
    """Fills the store with LAYERS layers in IMAGES images. Returns the name of one of them."""
    layout = Layout(os.path.join(bench.work, "layout"))
    layers = [layout.put("application/vnd.oci.image.layer.v1.tar", tar) for tar in layer_tars()]
    shared, own = layers[: LAYERS - IMAGES * OWN], layers[LAYERS - IMAGES * OWN :]
    for number in range(IMAGES):
        below = [shared[(number * SHARED + i) % len(shared)] for i in range(SHARED)]
        layout.image(f"bench.test/store:{number}", below + own[number * OWN : (number + 1) * OWN])
    layout.finish()
    bench.lamina("import", layout.directory, "--quiet")
    shutil.rmtree(layout.directory)
    for number in range(IMAGES):
        bench.lamina("prepare", f"bench.test/store:{number}")


def holding(bench, rounds):
    """Times whole commands on a large store in which there is nothing to do."""
    runs = 4 * rounds
    timed = lambda *arguments: bench.hyperfine_ms(None, " ".join(bench.program("lamina", *arguments)), runs)
    return [
        report.Row("gc with nothing to do", "ms", timed("gc"), 100),
        report.Row("images", "ms", timed("images"), 200),
        report.Row("du", "ms", timed("du"), 200),
        report.Row("prepare what is prepared, 8 layers of 10,000 entries", "ms", timed("prepare", "bench.test/store:0"), 10),
    ]


class Registry:
    """Debian's docker-registry on a free port of this host, with one image."""

    def __init__(self, work, layout):
        self.directory = os.path.join(work, "registry")
        os.makedirs(self.directory)
        configuration = os.path.join(self.directory, "registry.yml")
        with open(configuration, "w") as file:
            file.write(f"version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {self.directory}/storage}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n")
        log = os.path.join(self.directory, "log")
        self.process = subprocess.Popen(["docker-registry", "serve", configuration], stdout=subprocess.DEVNULL, stderr=open(log, "w"))
        while "listening on " not in (text := open(log).read()):
            if self.process.poll() is not None:
                sys.exit(f"error: docker-registry does not start: {text}")
            time.sleep(0.02)
        address = text.split("listening on ", 1)[1].split('"')[0].split()[0].rstrip(",")
        self.reference = f"{address}/bench/image:1"
        subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{self.reference}"], check=True)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def cold_start(bench, reference, processes):
    """Seconds until all processes that start together on an empty store have the image and its base."""
    bench.forget_store()
    os.sync()
    lamina = bench.program("lamina")[0]
    command = f"{lamina} pull --quiet {reference} && {lamina} prepare {reference}"
    begin = time.monotonic()
    started = [subprocess.Popen(["sh", "-c", command], env=bench.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(processes)]
    outputs = [process.communicate() for process in started]
    taken = time.monotonic() - begin
    if any(process.returncode for process in started) or len({out for out, _ in outputs}) != 1:
        sys.exit(f"error: cold start: {outputs}")
    return taken


def starting(bench, registry, rounds):
    alone, together = [], []
    for number in range(rounds):
        print(f"    round {number + 1} of {rounds}", flush=True)
        alone.append(cold_start(bench, registry.reference, 1))
        together.append(cold_start(bench, registry.reference, PROCESSES))
    return [
        report.Row("pull and prepare, one process", "s", alone),
        report.Row(f"pull and prepare, {PROCESSES} processes", "s", together),
        report.Row(f"cold start of {PROCESSES} processes / of one", "x", [b / a for a, b in zip(alone, together)], 1.2),
    ]


def main():
    images, programs, results, rounds = *sys.argv[1:4], int(sys.argv[4])
    with tempfile.TemporaryDirectory(prefix="bench.", dir=images) as work:
        bench = Bench(images, programs, work)
        large_store(bench)
        rows = holding(bench, rounds)
        notes = [f"a store of {LAYERS} layers, {LAYERS * ENTRIES:,} entries, {IMAGES} images, {file_bytes(bench.store) / 1e9:.2f} GB"]
        registry = Registry(work, bench.layout)
        try:
            rows += starting(bench, registry, rounds)
        finally:
            registry.stop()
    notes += [f"cold starts of the benchmark image from a registry on this host, {rounds} interleaved rounds"]
    report.write(results, "store", "A large store with many users", notes, rows)
    if any(row.holds is False for row in rows):
        sys.exit(1)


main()
