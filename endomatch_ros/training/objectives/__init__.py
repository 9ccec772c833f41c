"""What training minimises on pairs."""
