"""Any other dataset of padded batches, made countable."""
