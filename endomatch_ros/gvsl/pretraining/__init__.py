"""GVSL pre-training: pairs, damage, the Lightning module, the run."""
