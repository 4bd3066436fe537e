"""The work behind the commands of `msft`."""
