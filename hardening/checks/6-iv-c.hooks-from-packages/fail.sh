#!/bin/sh
# A program that root's udev runs for every device.
set -eu
printf 'ACTION=="add", RUN+="/usr/bin/true"\n' >/etc/udev/rules.d/99-trial.rules
