"""What the user passes, checked, and brought into flat values and row splits."""
