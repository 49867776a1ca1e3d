"""``swarm top``: a terminal user interface for the node on this machine. What it shows is worked out in ``view``."""
