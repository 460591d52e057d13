#!/bin/sh
# The policy is changed by hand: its signature no longer fits, the agent refuses it.
set -eu
printf ' ' >> /etc/sekisho/policy.json
systemctl reload sekisho-agent.service
sleep 8
grep -q '"policy_refused":true' /run/sekisho/agent.json
