"""Records from disk to host batches."""
