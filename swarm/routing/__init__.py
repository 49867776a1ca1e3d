"""Where to compute: paths over a frozen view of the swarm. Knows nothing of gossip or sockets."""
