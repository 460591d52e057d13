#!/bin/sh
# An account opens with an empty password.
set -eu
passwd --quiet --delete games
