"""What was padded: as numbers, tables and pictures."""
