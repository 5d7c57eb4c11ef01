# The three images that the tests compare entry by entry, and one to work in, of the pieces in layers.sh. They share layers.
# shellcheck shell=bash

make_debian() {
  debian_root with-packages.tar python3,ca-certificates,iputils-ping,less
  "$parts/tar-delta" base.tar with-packages.tar packages.tar
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
  "$parts/debian-corner-layers" .
  new_layout corners
  add_layer corners base.tar 'mmdebstrap --variant=minbase bookworm'
  local number
  for number in 1 2 3; do add_layer corners "corners-$number.tar" "corners $number"; done
  configure corners "${debian_env[@]}" --config.cmd /bin/sh
  publish corners "$1"
}

# What work in a guest needs, and beside the image the files to work on: a package, a wheel, an npm project with its tarballs.
make_work() {
  debian_root with-tools.tar python3,ca-certificates,git,nodejs
  "$parts/tar-delta" base.tar with-tools.tar tools.tar
  pypi_tree managers/usr/lib/python3/dist-packages pip==25.0.1
  npm_tree managers/usr/local/lib npm@10.9.2
  directory_layer managers.tar managers

  new_layout work
  add_layer work base.tar 'mmdebstrap --variant=minbase bookworm'
  add_layer work tools.tar 'apt-get install python3 ca-certificates git nodejs'
  add_layer work managers.tar 'pip and npm'
  configure work "${debian_env[@]}" --config.cmd /bin/bash

  mkdir -p files/package/DEBIAN files/package/usr/bin files/npm
  printf '#!/bin/sh\necho packaged\n' > files/package/usr/bin/hello-lamina
  chmod 0755 files/package/usr/bin/hello-lamina
  printf 'Package: hello-lamina\nVersion: 1.0\nArchitecture: all\nMaintainer: Lamina <lamina@example.test>\nDescription: says hello\n' > files/package/DEBIAN/control
  (cd files/package && md5sum usr/bin/hello-lamina > DEBIAN/md5sums)
  dpkg-deb --root-owner-group --build files/package files/hello-lamina.deb > /dev/null
  rm -r files/package
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest files idna==3.10
  (
    cd files/npm
    npm pack --silent is-odd@3.0.1 is-number@6.0.0 > /dev/null
    npm install --silent --no-audit --no-fund ./is-odd-3.0.1.tgz ./is-number-6.0.0.tgz > /dev/null
    rm -r node_modules
  )
  chmod -R a+rX files
  rm -rf "${1:?}/work-files"
  mv files "$1/work-files"
  publish work "$1"
}

make_debian_images() {
  step 'Debian 12' debian_root base.tar
  step 'image debian' make_debian "$1"
  step 'image trees' make_trees "$1"
  step 'image corners' make_corners "$1"
  step 'image work' make_work "$1"
}
