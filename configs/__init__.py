"""Configs: YAML groups for Hydra, and the frozen specs they are validated into.

`spec` says what a run is made of, `build` composes it from overrides and derives the
privacy plan. The YAML is reachable from any Hydra application as ``pkg://tacit.configs``.
"""
