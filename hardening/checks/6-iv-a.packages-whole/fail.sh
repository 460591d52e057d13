#!/bin/sh
# A package that was unpacked and never configured.
set -eu
umask 022
work=$(mktemp -d)
mkdir -p "$work/root/DEBIAN"
printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: trial <root@localhost>\nDescription: trial\n' sekisho-trial 1 >"$work/root/DEBIAN/control"
dpkg-deb --build "$work/root" "$work/trial.deb" >/dev/null
dpkg --unpack "$work/trial.deb" >/dev/null
rm -r "$work"
