"""Cost of a search before it runs."""
