"""Φ: the interface of a backbone, those that there are, and the registry that builds one for a configuration."""
