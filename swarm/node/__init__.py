"""What a process does with frames, gossip and compute: the parts wired together."""
