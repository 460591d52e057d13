"""Sekisho: build, guard and prove an enclave for medical data (Article 6)."""

__version__ = "0.1.0"
