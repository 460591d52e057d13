#!/bin/sh
# An exception that nothing closed: its entry says open, and its end is long past.
set -eu
mkdir -p /var/lib/sekisho/orders
cat >/var/lib/sekisho/orders/20260101-00000000000000ff.json <<'END'
{"boot":"","deadline":1,"device":{},"direction":"in","end_at":1767225600,"file":"","id":"20260101-00000000000000ff","state":"open"}
END
