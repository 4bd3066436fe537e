"""Read rows, fill templates, tokenize, and prepare the base model."""
