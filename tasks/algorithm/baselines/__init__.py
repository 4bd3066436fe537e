"""The baselines of the paper as strategies."""
