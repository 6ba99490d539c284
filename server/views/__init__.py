"""Plain data out of a store, for the API, the dashboard and the command line."""
