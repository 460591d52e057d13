"""The host's policy: the one signed document that root acts on. Pure."""
