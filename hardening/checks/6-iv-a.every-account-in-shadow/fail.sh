#!/bin/sh
# An account written into passwd by hand.
set -eu
echo 'trial:x:998877:65534::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
