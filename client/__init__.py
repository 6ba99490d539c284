"""Client: trains on one client's own data and lets out nothing but bounded, noised vectors.

`app` is the Flower ClientApp, `trainer` local training, `dpsgd` its noised optimizer,
`guard` what a client refuses, `update` the form in which an update leaves.
"""
