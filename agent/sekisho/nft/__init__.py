"""A host's policy into nftables rules, and the kernel's rules into the same form. Pure."""
