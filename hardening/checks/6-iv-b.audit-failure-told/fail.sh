#!/bin/sh
# Failures are swallowed.
set -eu
sed -i 's/^-f .*/-f 0/' /etc/audit/rules.d/10-sekisho-base.rules
augenrules --load
