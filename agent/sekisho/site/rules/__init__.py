"""What must hold of a whole site. Pure."""
