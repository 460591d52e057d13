"""Facts of a host evaluated in a process with limits."""
