#!/bin/sh
# A link to a packaged program adds no program.
set -eu
ln -s true /usr/bin/trial
