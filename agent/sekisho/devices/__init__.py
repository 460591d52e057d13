"""Device policy: who may attach what. Pure."""
