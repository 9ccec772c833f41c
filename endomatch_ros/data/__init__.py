"""Where frames come from: recordings and the synthetic endoscope."""
