#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}net\.core\.bpf_jit_harden = .*|net.core.bpf_jit_harden = 0|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw net.core.bpf_jit_harden=0
