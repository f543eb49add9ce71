"""Plans to batches of tensors, in graph."""
