#!/bin/sh
# A newer package is offered and not installed.
set -eu
umask 022
work=/var/tmp/sekisho-security
mkdir -p "$work/root/DEBIAN"
printf 'Package: tzdata\nVersion: 9999-1\nArchitecture: all\nMaintainer: trial <root@localhost>\nDescription: trial\n' >"$work/root/DEBIAN/control"
dpkg-deb --build "$work/root" "$work/tzdata.deb" >/dev/null
{
    cat "$work/root/DEBIAN/control"
    printf 'Filename: ./tzdata.deb\nSize: %s\nSHA256: %s\n\n' \
        "$(stat -c %s "$work/tzdata.deb")" "$(sha256sum "$work/tzdata.deb" | cut -d' ' -f1)"
} >"$work/Packages"
list=/etc/apt/sources.list.d/sekisho-security.sources
printf 'Types: deb\nURIs: file:%s\nSuites: ./\nTrusted: yes\n' "$work" >"$list"
apt-get -qq -o Dir::Etc::SourceList="$list" -o Dir::Etc::SourceParts=/dev/null update
