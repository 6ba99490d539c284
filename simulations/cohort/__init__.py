"""Many simulated clients trained together: the cohort engines.

`job` says what an engine is given and owes; `trainer` decides which engine runs a model and
checks it against Opacus; `torch` is the one for any model, `fused` the compiled one for small
networks of common layers. None of them is ever a deployment's: a real client trains alone.
"""
