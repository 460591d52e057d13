#!/bin/sh
# Somebody without training can log in.
set -eu
useradd --create-home --shell /bin/bash --expiredate 2099-12-31 endo
