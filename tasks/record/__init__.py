"""A search's directory: its journal and files."""
