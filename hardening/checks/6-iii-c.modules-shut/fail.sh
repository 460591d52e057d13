#!/bin/sh
# Not shut after the next boot (a running kernel cannot be opened again).
set -eu
systemctl --quiet disable sekisho-modules.service
