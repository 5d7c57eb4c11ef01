# Where lamina runs in a guest of its own, for real KVM and for a host with systemd: what it needs on a host.
# shellcheck shell=bash

outer_packages=qemu-system-x86,fuse3,passt,kmod,e2fsprogs,attr,git,libcap-ng0,libseccomp2,uidmap,crun,systemd-sysv,dbus-user-session

make_outer() {
  debian_root outer.tar "$outer_packages"
  new_layout outer
  add_layer outer outer.tar "mmdebstrap --variant=minbase bookworm, $outer_packages"
  configure outer "${debian_env[@]}" --config.cmd /bin/bash
  publish outer "$1"
}

make_outer_images() {
  step 'image outer' make_outer "$1"
}
