#!/bin/sh
# An account without an end.
set -eu
usermod --expiredate '' auditor
