"""Changes that undo themselves unless confirmed."""
