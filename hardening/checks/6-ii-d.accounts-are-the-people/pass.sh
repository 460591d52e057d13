#!/bin/sh
# A service account without a shell is nobody's way in.
set -eu
useradd --system --shell /usr/sbin/nologin trial-service
