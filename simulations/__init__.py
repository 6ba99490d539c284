"""Simulations: the whole federation in one process, and pictures of how it went.

`grid` is the Flower Grid that calls clients directly, `engine` runs or resumes a run on it,
`report` writes ``report.html`` and its plots, `sweep` many runs and their comparison.
"""
