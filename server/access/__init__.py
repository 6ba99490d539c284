"""Who may see and do what: tenants, roles, tokens, and records of every read."""
