#!/bin/sh
# Everything of one account is left out of the record.
set -eu
echo '-A never,exit -F arch=b64 -S execve -F auid=2001' >/etc/audit/rules.d/05-trial.rules
augenrules --load
