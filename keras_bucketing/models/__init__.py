"""Models of these layers; they know nothing of datasets."""
