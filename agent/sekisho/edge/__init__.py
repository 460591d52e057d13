"""The only room with effects: processes, files, clock, network, kernel."""
