#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}kernel\.perf_event_paranoid = .*|kernel.perf_event_paranoid = 1|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw kernel.perf_event_paranoid=1
