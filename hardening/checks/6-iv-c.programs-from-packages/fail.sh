#!/bin/sh
# A program of no package.
set -eu
cp /usr/bin/true /usr/sbin/trial
