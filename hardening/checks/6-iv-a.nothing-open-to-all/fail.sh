#!/bin/sh
# A file and a folder for everybody.
set -eu
touch /usr/share/trial
chmod 0666 /usr/share/trial
mkdir -p /srv/open
chmod 0777 /srv/open
