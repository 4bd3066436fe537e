"""The commands of `msft` other than searching and comparing."""
