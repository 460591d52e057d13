"""The seven attacks, of which `make demo` tells six. Each module has TITLE and ``run(lab, trial)``."""
