# How layers and layouts are made. Every function works in the current directory, a scratch directory.
# shellcheck shell=bash

# One date for everything that Debian's tools make, so that unchanged files stay unchanged entries.
image_date=1735689600

# As Debian's own container images do.
without_documentation=(--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*'
  --dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/locale/*'
  --dpkgopt='path-exclude=/usr/share/info/*')

# debian_root OUT.tar [PACKAGES]: the smallest Debian 12, with PACKAGES (separated by commas) on top.
debian_root() {
  SOURCE_DATE_EPOCH=$image_date mmdebstrap --quiet --variant=minbase "${without_documentation[@]}" ${2:+--include="$2"} bookworm - > "$1"
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
  # The oracle's tree of the older one goes with it (tests/src/oracle.rs).
  rm -rf "${2:?}/$1" "$2/$1"-*.tree
  mv "$1" "$2/$1"
  printf '    %s: %s\n' "$2/$1" "$(du --summarize --human-readable "$2/$1" | cut -f1)"
}

# directory_layer OUT.tar ROOT [OWNER PATH]: a layer of what is at PATH (all) under ROOT, owned by OWNER (a uid and gid; root).
directory_layer() {
  tar --create --file="$1" --directory="$2" --sort=name --owner="${3:-0}" --group="${3:-0}" --numeric-owner --format=posix \
    --pax-option=delete=atime,delete=ctime --mtime="@$image_date" --clamp-mtime "${4:-.}"
}

# pypi_tree DIR PACKAGES...: for the Python of Debian 12, whatever Python runs pip here.
pypi_tree() {
  local target=$1
  shift
  python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --root-user-action=ignore --no-compile --only-binary=:all: \
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
