"""Server: the coordinator, the ledger's storage and the registry of versions.

`coordinator` is the round, on one page; `legs` talks to clients through any Flower Grid;
`aggregate` sums what they send; `store` and `registry` keep what must not be lost; `app` is
the Flower ServerApp.
"""
