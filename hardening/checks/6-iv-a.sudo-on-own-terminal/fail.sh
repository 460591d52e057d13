#!/bin/sh
# sudo shares the terminal again.
set -eu
sed -i '/use_pty/d' /etc/sudoers
