"""Padded arrays and batches back to rows of their own length: which entries are masks, and where rows stop."""
