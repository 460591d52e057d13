#!/bin/sh
# The next boot would be an ordinary one, and this one says that it is maintenance.
set -eu
: >/etc/default/grub.d/sekisho-terminal.cfg
echo maintenance >/run/sekisho-terminal
