#!/bin/sh
# Wrong passwords are no longer counted.
set -eu
sed -i '/pam_faillock/d; s/success=2/success=1/' /etc/pam.d/common-auth
