"""A transparency log of ledger leaves: what was promised, and that nobody rewrote it.

`merkle` is the tree of RFC 9162, `notes` the signed notes and checkpoints of C2SP, `keyfile`
the file in which the log's signing key is kept.
"""
