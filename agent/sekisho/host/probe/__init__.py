"""The probe service."""
