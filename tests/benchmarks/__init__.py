"""Measurements to run by hand: reported, not asserted."""
