#!/bin/sh
# Updates wait for somebody.
set -eu
sed -i 's/Unattended-Upgrade "1"/Unattended-Upgrade "0"/' /etc/apt/apt.conf.d/60sekisho
