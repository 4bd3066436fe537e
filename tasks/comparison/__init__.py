"""Several methods, seeds or settings compared."""
