"""What runs in a process of its own; imports neither prefect nor mlflow."""
