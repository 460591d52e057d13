#!/bin/sh
# The agent is stopped and does not come back at the next boot.
set -eu
systemctl disable --now sekisho-agent.service
! systemctl is-active --quiet sekisho-agent.service
