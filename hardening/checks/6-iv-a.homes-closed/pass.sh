#!/bin/sh
# A home its own group can enter is closed to others.
set -eu
chmod 0750 /home/aoki
