#!/bin/sh
# A service under that name runs.
set -eu
rm -f /etc/systemd/system/anydesk.service
cat >/etc/systemd/system/anydesk.service <<'END'
[Service]
ExecStart=/bin/sleep infinity
END
systemctl daemon-reload
systemctl start anydesk.service
