# The benchmark's image and its rebuilt form, of the pieces in layers.sh.
# shellcheck shell=bash

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
  "$parts/tar-delta" base.tar with-packages.tar packages.tar
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
