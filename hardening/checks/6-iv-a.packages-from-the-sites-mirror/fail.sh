#!/bin/sh
# A mirror nobody named.
set -eu
echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.invalid/debian trixie main' >/etc/apt/sources.list.d/trial.list
