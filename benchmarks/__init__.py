"""Side by side: distsent and what users would pick instead, in one run."""
