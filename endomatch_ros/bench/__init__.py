"""How fast the matcher and the node are, in parts: the work behind ``endomatch bench``."""
