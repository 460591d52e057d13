"""The journal on disk, and its socket."""
