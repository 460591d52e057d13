"""A checked site into each host's policy. Pure."""
