#!/bin/sh
# Set back on disk (the running kernel takes it back only at a restart).
set -eu
sed -i 's|^-\{0,1\}kernel\.kexec_load_disabled = .*|kernel.kexec_load_disabled = 0|' /etc/sysctl.d/60-sekisho.conf
