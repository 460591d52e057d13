#!/bin/sh
# A process of a user id that no account has.
set -eu
setsid setpriv --reuid=2777 --regid=2777 --clear-groups sleep 3600 </dev/null >/dev/null 2>&1 &
sleep 1
