#!/bin/sh
# All rules taken out of the running kernel; the files stand.
set -eu
auditctl -D
