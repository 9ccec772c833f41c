"""Geometric visual similarity learning (arXiv 2303.00874), 2D and 3D: similarity is learned by registering pairs."""
