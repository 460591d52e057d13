"""Commands of a server."""
