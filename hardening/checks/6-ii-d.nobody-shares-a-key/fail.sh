#!/bin/sh
# The administrator's key also opens the auditor's account.
set -eu
cat /etc/ssh/authorized_keys.d/aoki >>/etc/ssh/authorized_keys.d/auditor
