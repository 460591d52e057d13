"""One module per fact: what to collect and how to read it. Pure."""
