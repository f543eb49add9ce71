"""Lengths to boundaries, sizes, buckets, cuts and the batches of an epoch."""
