"""A package, because pytest takes one module of a name, and `baselines/` has test files of the same names."""
