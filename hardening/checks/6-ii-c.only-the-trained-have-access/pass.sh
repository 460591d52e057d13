#!/bin/sh
# An account that ended long ago lets nobody in (other checks report it).
set -eu
useradd --create-home --shell /bin/bash --expiredate 2020-01-01 fujita
