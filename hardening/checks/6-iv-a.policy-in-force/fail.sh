#!/bin/sh
# The policy is changed by hand: its signature no longer fits, the agent refuses it.
set -eu
printf ' ' >> /etc/sekisho/policy.json
systemctl reload-or-restart sekisho-agent.service
for _ in $(seq 25); do
    sleep 2
    if grep -q '"policy_refused":true' /run/sekisho/agent.json; then exit 0; fi
done
exit 1
