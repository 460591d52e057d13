#!/bin/sh
# A file dropped beside the one rule is not read.
set -eu
echo 'auditor ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/dropped
chmod 0440 /etc/sudoers.d/dropped
