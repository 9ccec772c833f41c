"""What every training of the package shares. Nothing that runs online imports this."""
