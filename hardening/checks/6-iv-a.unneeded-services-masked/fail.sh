#!/bin/sh
# A service under that name runs.
set -eu
rm -f /etc/systemd/system/rpcbind.service
cat >/etc/systemd/system/rpcbind.service <<'END'
[Service]
ExecStart=/bin/sleep infinity
END
systemctl daemon-reload
systemctl start rpcbind.service
