#!/bin/sh
# The agent's certificate is ruined: it cannot show its metrics to the monitor.
set -eu
echo ruined > /etc/sekisho/host.crt.pem
systemctl restart sekisho-agent.service
for _ in $(seq 25); do
    sleep 2
    if grep -q '"metrics":false' /run/sekisho/agent.json; then exit 0; fi
done
exit 1
