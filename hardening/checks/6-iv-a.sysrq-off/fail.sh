#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}kernel\.sysrq = .*|kernel.sysrq = 438|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw kernel.sysrq=438
