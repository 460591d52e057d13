"""Asking hosts over SSH."""
