#!/bin/sh
# An option that overrides the configuration at the next start.
set -eu
sed -i 's/^SSHD_OPTS=.*/SSHD_OPTS="-o MaxAuthTries=5"/' /etc/default/ssh
