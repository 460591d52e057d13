#!/bin/sh
# Switched off; every rule stays loaded.
set -eu
auditctl -e 0
