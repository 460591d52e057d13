#!/bin/sh
# A program runs at every login.
set -eu
echo 'account optional pam_exec.so /bin/true' >>/etc/pam.d/common-account
