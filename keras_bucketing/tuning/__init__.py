"""Batch sizes from the measured training steps of a model."""
