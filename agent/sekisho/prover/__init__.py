"""The prover: rules as the kernel lists them, translated for a solver, against the site's laws.

Pure. Needs z3 (control side only): nothing outside this package imports it at module level but
`declared` and `constants`, which do without.
"""
