"""Layers that mask and pool; they know nothing of datasets."""
