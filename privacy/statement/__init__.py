"""The privacy statement of a model version: for people, and for the public registry.

`statement` gathers it from a ledger's leaves, `words` says it in sentences, `text` lays it out,
`registry` makes an entry of the public deployments registry of it.
"""
