"""Secure aggregation: the coordinator learns a sum and no summand.

Bonawitz et al. 2017 (ACM CCS, https://eprint.iacr.org/2017/281) with the additions against
an active adversary; above some 300 clients on a sparse graph (Bell et al. 2020,
https://eprint.iacr.org/2020/704). `client` and `server` are the two state machines,
`messages` what they say, `keys`, `masks`, `shamir` and `graph` what they are made of.
"""
