"""Privacy: what is promised, what was spent, and the mechanisms that keep the promise.

Imports neither torch nor flwr, so a reviewer can run it anywhere. Start with `plan` (what a
run promises), then `events` and `accountant` (what that costs), `mechanisms` and `noise`
(how it is kept), and `ledger` (what was written down, and how to add it up).
"""
