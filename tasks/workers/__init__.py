"""Programs that run in their own process; they import neither prefect nor mlflow."""
