"""Manifests and parts of a delivery. Pure, with streams."""
