"""The agent's parts, one module each."""
