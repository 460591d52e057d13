"""The kernel's network and the files that describe it: netlink, networkd, strongSwan. Pure."""
