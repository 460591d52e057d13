#!/bin/sh
# Root gets a password.
set -eu
usermod --password 'not-a-hash' root
