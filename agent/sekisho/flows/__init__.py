"""nftables compiler and one-way rules. Pure."""
