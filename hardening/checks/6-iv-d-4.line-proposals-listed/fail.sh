#!/bin/sh
# A line that can fall back.
set -eu
mkdir -p /etc/swanctl/conf.d
cat >/etc/swanctl/conf.d/other.conf <<'END'
connections {
  weak {
    version = 2
    proposals = aes256gcm16-prfsha384-ecp384, aes128-sha1-modp1024
  }
}
END
