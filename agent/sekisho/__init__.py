"""Sekisho: build, guard and prove an enclave for medical data (Article 6)."""

__version__ = "0.2.0.dev0"
