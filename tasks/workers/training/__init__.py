"""Parts of the training worker."""
