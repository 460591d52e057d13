#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}kernel\.yama\.ptrace_scope = .*|kernel.yama.ptrace_scope = 0|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw kernel.yama.ptrace_scope=0
