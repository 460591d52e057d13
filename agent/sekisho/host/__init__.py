"""What runs on a server."""
