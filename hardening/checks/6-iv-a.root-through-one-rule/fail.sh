#!/bin/sh
# The auditor may become root.
set -eu
echo 'auditor ALL=(ALL) NOPASSWD: ALL' >>/etc/sudoers
