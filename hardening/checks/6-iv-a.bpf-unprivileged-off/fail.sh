#!/bin/sh
# Set back on disk (the running kernel takes it back only at a restart).
set -eu
sed -i 's|^-\{0,1\}kernel\.unprivileged_bpf_disabled = .*|kernel.unprivileged_bpf_disabled = 0|' /etc/sysctl.d/60-sekisho.conf
