#!/bin/sh
# Somebody writes by hand what only an order may open.
set -eu
mkdir -p /run/sekisho-exception
cat >/run/sekisho-exception/open.json <<'END'
{"content":{"device":{"interfaces":["08:06:50"],"name":"stick","port":"2","product":"0001","serial":"FORGED","vendor":"46f4"},"direction":"out"},"deadline":9999999999,"end":9999999999,"id":"20260101-0000000000000000"}
END
chmod 0600 /run/sekisho-exception/open.json
