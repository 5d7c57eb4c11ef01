"""Makes layouts with all files of the benchmark's image in one layer: one compressed with gzip, one with zstd."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile

BLOCK = 512
COMPRESSIONS = {"gzip": ["gzip", "-6", "-n"], "zstd": ["zstd", "-q", "-3"]}


def layouts(images, source):
    """The name and the directory of each layout. They are kept in `images` and made again if the image has changed."""
    manifest = latest(source)
    stamp = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    made = [(name, os.path.join(images, f"bench-one-{name}-{stamp[:12]}")) for name in COMPRESSIONS]
    missing = [(name, layout) for name, layout in made if not os.path.exists(layout)]
    if missing:
        print("    making the image with one layer", flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-one.", dir=images) as work:
            tar = os.path.join(work, "tar")
            digest = join_layers(source, manifest, tar)
            for name, layout in missing:
                made_here = os.path.join(work, name)
                make_layout(made_here, name, tar, digest)
                os.rename(made_here, layout)
    return made


def blob(layout, digest):
    return os.path.join(layout, "blobs", *digest.split(":"))


def latest(layout):
    with open(os.path.join(layout, "index.json")) as file:
        index = json.load(file)
    tagged = next(each for each in index["manifests"] if each["annotations"]["org.opencontainers.image.ref.name"] == "latest")
    with open(blob(layout, tagged["digest"])) as file:
        return json.load(file)


def join_layers(layout, manifest, path):
    """Writes the tars of all layers one after another, without the zeros that end each. Returns the SHA-256 of all."""
    hasher = hashlib.sha256()
    with open(path, "wb") as out:
        def write(data):
            hasher.update(data)
            out.write(data)

        for layer in manifest["layers"]:
            unpacking = subprocess.Popen(["gzip", "-dc", blob(layout, layer["digest"])], stdout=subprocess.PIPE)
            zeros = 0
            while piece := unpacking.stdout.read(1 << 20):
                content = piece.rstrip(b"\0")
                kept = -(-len(content) // BLOCK) * BLOCK
                if kept:
                    write(bytes(zeros))
                    write(piece[:kept])
                    zeros = 0
                zeros += len(piece) - kept
            if unpacking.wait():
                raise SystemExit(f"error: layer {layer['digest']} of {layout} is damaged")
        write(bytes(2 * BLOCK))
    return hasher.hexdigest()


def make_layout(layout, compression, tar, diff_id):
    os.makedirs(os.path.join(layout, "blobs", "sha256"))

    def put(data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        with open(blob(layout, digest), "wb") as out:
            out.write(data)
        return {"digest": digest, "size": len(data)}

    packed = os.path.join(layout, "packed")
    with open(tar, "rb") as source, open(packed, "wb") as out:
        subprocess.run(COMPRESSIONS[compression], stdin=source, stdout=out, check=True)
    with open(packed, "rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    layer = {"mediaType": f"application/vnd.oci.image.layer.v1.tar+{compression}", "digest": digest, "size": os.path.getsize(packed)}
    shutil.move(packed, blob(layout, digest))
    config = put(json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + diff_id]}}).encode())
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config}, "layers": [layer]}
    described = put(json.dumps(manifest).encode())
    name = {"annotations": {"org.opencontainers.image.ref.name": "latest"}}
    index = {"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", **described, **name}]}
    with open(os.path.join(layout, "index.json"), "w") as out:
        json.dump(index, out)
    with open(os.path.join(layout, "oci-layout"), "w") as out:
        json.dump({"imageLayoutVersion": "1.0.0"}, out)
