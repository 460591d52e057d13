#!/bin/sh
# The agent's certificate is ruined: it cannot show its metrics to the monitor.
set -eu
echo ruined > /etc/sekisho/host.crt.pem
systemctl restart sekisho-agent.service
for _ in $(seq 25); do
    sleep 2
    if [ -s /run/sekisho/agent.json ] && ! grep -q '"metrics":true' /run/sekisho/agent.json; then
        exit 0
    fi
done
exit 1
