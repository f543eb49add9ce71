"""Anything that yields rows or batches, read once: into memory, or into a folder of plain files."""
