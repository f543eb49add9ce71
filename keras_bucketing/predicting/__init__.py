"""Predictions in the order of the input, those of each timestep cut to their row."""
