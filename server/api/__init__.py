"""The REST API and what it shares with the dashboard: callers, places, limits, errors."""
