"""The site's inventory on disk."""
