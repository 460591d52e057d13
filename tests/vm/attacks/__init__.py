"""The six attacks. Each module has TITLE and ``run(lab, trial)``."""
