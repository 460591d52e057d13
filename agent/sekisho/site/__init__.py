"""The site model: parse, validate, compile per host. Pure."""
