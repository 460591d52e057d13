"""Device policy enforced on a host: USB, exceptions, kernel modules."""
