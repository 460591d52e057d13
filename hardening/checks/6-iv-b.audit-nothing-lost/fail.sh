#!/bin/sh
# A backlog for one record, and a burst: what does not fit is lost.
set -eu
auditctl --backlog_wait_time 0
auditctl -b 1
for _ in 1 2 3 4 5 6; do
  find /etc -maxdepth 1 -type f -exec touch -c {} + &
done
wait
i=0
while [ "$(auditctl -s | sed -n 's/^lost //p')" -eq 0 ] && [ "$i" -lt 200 ]; do
  find /etc -maxdepth 2 -type f -exec touch -c {} +
  i=$((i + 1))
done
auditctl -b 8192
auditctl --backlog_wait_time 60000
