#!/bin/sh
# A line to a stranger, in a file of its own.
set -eu
mkdir -p /etc/swanctl/conf.d
cat >/etc/swanctl/conf.d/other.conf <<'END'
connections {
  stranger {
    version = 2
    remote_addrs = 198.51.100.1
    proposals = aes256gcm16-prfsha384-ecp384
    children {
      everything {
        remote_ts = 0.0.0.0/0
        esp_proposals = aes256gcm16-ecp384
      }
    }
  }
}
END
