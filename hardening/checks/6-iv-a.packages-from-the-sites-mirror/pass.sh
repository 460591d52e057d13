#!/bin/sh
# A file of comments is no source.
set -eu
printf '# nothing here\n' >/etc/apt/sources.list.d/sekisho-note.sources
