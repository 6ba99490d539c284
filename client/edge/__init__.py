"""The device agent: a client without torch and flwr. Extra ``tacit[edge]``."""
