"""Items of Article 6, checks, verdicts. Pure."""
