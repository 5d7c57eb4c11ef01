# What is in each image. Every function works in the current directory, a scratch directory.
# shellcheck shell=bash

# One date for everything that Debian's tools make, so that unchanged files stay unchanged entries.
export SOURCE_DATE_EPOCH=1735689600

# As Debian's own container images do.
without_documentation=(--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*'
  --dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/locale/*'
  --dpkgopt='path-exclude=/usr/share/info/*')

# debian_root OUT.tar [PACKAGES]: the smallest Debian 12, with PACKAGES (separated by commas) on top.
debian_root() {
  mmdebstrap --quiet --variant=minbase "${without_documentation[@]}" ${2:+--include="$2"} bookworm - > "$1"
}

# new_layout LAYOUT: an OCI layout with one image of no layer, tag `latest`.
new_layout() {
  umoci init --layout "$1"
  umoci new --image "$1:latest"
}

# add_layer LAYOUT LAYER.tar COMMENT
add_layer() {
  umoci raw add-layer --image "$1:latest" --history.created_by "$3" --history.created 2025-01-01T00:00:00Z "$2"
}

# configure LAYOUT OPTIONS...: the image's config; then drops the blobs of the steps before.
configure() {
  local layout=$1
  shift
  umoci config --image "$layout:latest" --created 2025-01-01T00:00:00Z --history.created 2025-01-01T00:00:00Z "$@"
  umoci gc --layout "$layout"
}

# publish LAYOUT DIR: takes the place of an older one only when it is whole.
publish() {
  chmod -R a+rX "$1"
  rm -rf "${2:?}/$1"
  mv "$1" "$2/$1"
  printf '    %s: %s\n' "$2/$1" "$(du --summarize --human-readable "$2/$1" | cut -f1)"
}

# directory_layer OUT.tar ROOT [OWNER PATH]: a layer of what is at PATH (all) under ROOT, owned by OWNER (a uid and gid; root).
directory_layer() {
  tar --create --file="$1" --directory="$2" --sort=name --owner="${3:-0}" --group="${3:-0}" --numeric-owner --format=posix \
    --pax-option=delete=atime,delete=ctime --mtime="@$SOURCE_DATE_EPOCH" --clamp-mtime "${4:-.}"
}

# pypi_tree DIR PACKAGES...: for the Python of Debian 12, whatever Python runs pip here.
pypi_tree() {
  local target=$1
  shift
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-compile --only-binary=:all: \
    --python-version 3.11 --implementation cp --platform manylinux2014_x86_64 --target "$target" "$@"
}

# npm_tree DIR PACKAGES...
npm_tree() {
  local target=$1
  shift
  mkdir -p "$target"
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$target" "$@" > /dev/null
}

debian_env=(--config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)

make_debian() {
  debian_root with-packages.tar python3,ca-certificates,iputils-ping,less
  "$scripts/image-parts/tar-delta" base.tar with-packages.tar packages.tar
  mkdir -p settings/etc settings/usr/bin settings/srv/app
  printf 'lamina\n' > settings/etc/hostname
  printf 'made by scripts/images\n' > settings/srv/app/README
  : > settings/usr/bin/.wh.less
  directory_layer settings.tar settings

  new_layout debian
  add_layer debian base.tar 'mmdebstrap --variant=minbase bookworm'
  add_layer debian packages.tar 'apt-get install python3 ca-certificates iputils-ping less'
  add_layer debian settings.tar 'settings'
  configure debian "${debian_env[@]}" --config.env LAMINA_IMAGE=debian --config.workingdir /srv/app --config.cmd /bin/bash
  publish debian "$1"
}

make_trees() {
  pypi_tree pypi/usr/lib/python3/dist-packages numpy==2.2.6 requests==2.32.3 pyyaml==6.0.2
  npm_tree npm/srv/web typescript@5.8.3 express@4.21.2 date-fns@4.1.0
  directory_layer pypi.tar pypi
  # No entry for /srv: the layer says nothing of it, so it stays as the layers below have it.
  directory_layer npm.tar npm 1000 srv/web

  new_layout trees
  add_layer trees base.tar 'mmdebstrap --variant=minbase bookworm'
  add_layer trees packages.tar 'apt-get install python3 ca-certificates iputils-ping less'
  add_layer trees pypi.tar 'pip install numpy requests pyyaml'
  add_layer trees npm.tar 'npm install typescript express date-fns'
  configure trees "${debian_env[@]}" --config.env NODE_PATH=/srv/web/node_modules --config.workingdir /srv/web \
    --config.user 1000:1000 --config.entrypoint /usr/bin/env --config.cmd python3
  publish trees "$1"
}

make_corners() {
  "$scripts/image-parts/corner-layers" .
  new_layout corners
  add_layer corners base.tar 'mmdebstrap --variant=minbase bookworm'
  local number
  for number in 1 2 3; do add_layer corners "corners-$number.tar" "corners $number"; done
  configure corners "${debian_env[@]}" --config.cmd /bin/sh
  publish corners "$1"
}

make_tests_images() {
  step 'Debian 12' debian_root base.tar
  step 'image debian' make_debian "$1"
  step 'image trees' make_trees "$1"
  step 'image corners' make_corners "$1"
}

# An application's own files: what changes when an image is rebuilt. application OUT.tar VERSION
application() {
  local root=application-$2 number
  mkdir -p "$root/srv/app/modules"
  printf '%s\n' "$2" > "$root/srv/app/VERSION"
  for number in $(seq 1 500); do
    printf 'def answer():\n    return "%s of version %s"\n' "$number" "$2" > "$root/srv/app/modules/module_$number.py"
  done
  # What a build leaves beside its sources: compiled files that do not compress well.
  openssl enc -aes-256-ctr -nosalt -pass "pass:$2" -in /dev/zero 2>/dev/null | head -c 8M > "$root/srv/app/bundle.bin" || true
  directory_layer "$1" "$root"
}

make_bench_layers() {
  debian_root base.tar
  debian_root with-packages.tar build-essential,git,python3-dev,linux-headers-amd64,golang-1.19-src,libboost-dev
  "$scripts/image-parts/tar-delta" base.tar with-packages.tar packages.tar
  pypi_tree pypi/usr/lib/python3/dist-packages ansible==11.5.0 scipy==1.15.2 pandas==2.2.3 django==5.1.7 sympy==1.13.3
  npm_tree npm/srv/web @mui/icons-material@5.16.14 typescript@5.8.3 webpack@5.98.0 eslint@9.23.0 lodash@4.17.21 rxjs@7.8.2 date-fns@4.1.0
  directory_layer pypi.tar pypi
  directory_layer npm.tar npm
  application application-1.tar 1.0
  application application-2.tar 1.1
}

make_bench_layout() {
  local layout=$1 layer
  new_layout "$layout"
  for layer in base packages pypi npm "$2"; do add_layer "$layout" "$layer.tar" "$layer"; done
  configure "$layout" "${debian_env[@]}" --config.cmd /bin/bash
  publish "$layout" "$3"
}

make_bench_images() {
  step 'layers of the benchmark image' make_bench_layers
  say "$(cat base.tar packages.tar pypi.tar npm.tar application-1.tar | tar --list --ignore-zeros --file=- | wc -l) entries"
  step 'image bench' make_bench_layout bench application-1 "$1"
  step 'image bench-rebuilt' make_bench_layout bench-rebuilt application-2 "$1"
}
