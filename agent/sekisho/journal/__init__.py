"""Hash chain, seals and their verification. Pure."""
