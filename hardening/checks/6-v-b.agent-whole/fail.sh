#!/bin/sh
# The agent's certificate is ruined: it cannot show its metrics to the monitor.
set -eu
echo ruined > /etc/sekisho/host.crt.pem
systemctl restart sekisho-agent.service
sleep 10
grep -q '"metrics":false' /run/sekisho/agent.json
