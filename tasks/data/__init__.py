"""Rows and base models, ready for use."""
