"""What runs on the control and audit side; never on a server."""
