#!/bin/sh
# Kernel modules come and go unseen.
set -eu
sed -i '/init_module/d' /etc/audit/rules.d/50-sekisho-kernel.rules
augenrules --load
