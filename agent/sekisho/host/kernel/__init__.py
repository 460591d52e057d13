"""The kernel's ends: netlink, nftables, audit, udev, sysfs."""
