#!/bin/sh
# A service under that name runs.
set -eu
rm -f /etc/systemd/system/udisks2.service
cat >/etc/systemd/system/udisks2.service <<'END'
[Service]
ExecStart=/bin/sleep infinity
END
systemctl daemon-reload
systemctl start udisks2.service
