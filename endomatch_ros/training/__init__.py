"""Offline training. Nothing that runs online imports this."""
