"""Evidence bundles and their renderings. Pure."""
