"""Scripts of the baselines, each started as its users start it."""
