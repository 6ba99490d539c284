"""The compiled cohort engine: small networks of common layers, one client at a time in C."""
