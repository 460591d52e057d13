#!/bin/sh
# An account that nobody of the site is named for.
set -eu
useradd --create-home --shell /bin/bash --uid 2099 ishida
