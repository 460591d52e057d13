#!/bin/sh
# A newer kernel waits for a boot (from no package: the playbook takes it away).
set -eu
cp "/boot/vmlinuz-$(uname -r)" /boot/vmlinuz-9999.0-trial
