"""Refutations replayed in network namespaces."""
