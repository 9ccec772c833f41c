"""Training pairs: recordings and synthetic scenes made ready, drawn, cut and changed in appearance."""
