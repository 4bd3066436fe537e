"""The report of a search: one page that stands alone, drawn from the files of its directory."""
