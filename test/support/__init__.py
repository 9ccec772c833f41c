"""What tests share: small recordings, volumes, models, and a bench around the node."""
