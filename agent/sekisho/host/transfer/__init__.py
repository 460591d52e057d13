"""The one-way hop's two ends."""
