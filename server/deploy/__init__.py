"""What a deployment on SuperLink and SuperNodes is made of: keys, certificates, files to start it.

`certificates` is the coordinator's authority and the SuperLink's certificate; `silo` makes a
silo's own keys and the public parts it hands in; `coordinator` collects those into the
directory and the federation file that every silo pins; `scripts` writes what starts each
process; `check` says what is wrong with a folder. `superlink` is Flower's SuperLink with its
control closed to the network. `docs/deploy.md` is the walk through.

Secrets are made where they are used and written once; nothing here reads or overwrites a key
that is somebody else's.
"""
