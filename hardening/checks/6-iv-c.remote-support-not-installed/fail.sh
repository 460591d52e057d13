#!/bin/sh
# A remote-desktop package (pretended).
set -eu
umask 022
work=$(mktemp -d)
mkdir -p "$work/root/DEBIAN"
printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: trial <root@localhost>\nDescription: trial\n' x11vnc 9999 >"$work/root/DEBIAN/control"
dpkg-deb --build "$work/root" "$work/trial.deb" >/dev/null
dpkg -i "$work/trial.deb" >/dev/null
rm -r "$work"
