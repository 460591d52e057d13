"""Commands of the control and audit side."""
