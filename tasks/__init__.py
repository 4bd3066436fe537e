"""One module per stage of a search: a plain function that works, and a thin Prefect task around it."""
