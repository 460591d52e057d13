#!/bin/sh
# The list names another disk than the machine's: what is there is not listed any more.
set -eu
sed -E -i 's/^([0-9a-f:.]+ [^ ]+) [^ ]+ /\1 SOMEBODY-ELSES /' /etc/sekisho/disks
