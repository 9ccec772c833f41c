"""Refinement: from coarse matches on the descriptor grid to targets in source pixels."""
