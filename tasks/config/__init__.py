"""The configuration: its sections, reading it, and what makes two of them one search."""
