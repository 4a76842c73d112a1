"""Search over jobs: which trials a sweep has, how each ends, and which one is best."""
