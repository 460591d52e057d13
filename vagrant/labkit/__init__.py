"""The driver of the lab: a handful of virtual machines in namespaces of their own."""
