#!/bin/sh
# A package is held.
set -eu
echo "openssh-server hold" | dpkg --set-selections
