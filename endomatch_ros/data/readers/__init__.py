"""What reads recordings: one module per kind, all of them listed in ``registry``."""
