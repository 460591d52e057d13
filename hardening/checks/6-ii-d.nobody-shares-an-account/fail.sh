#!/bin/sh
# A second name for the auditor's user id.
set -eu
useradd --non-unique --uid "$(id -u auditor)" --no-create-home --shell /bin/sh twin
