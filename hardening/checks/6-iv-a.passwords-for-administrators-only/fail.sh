#!/bin/sh
# The auditor gets a password.
set -eu
usermod --password 'not-a-hash' auditor
