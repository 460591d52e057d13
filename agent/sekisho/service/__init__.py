"""The daemons: wiring of the pure rooms and the edge."""
