"""MLflow as the registry of checkpoints, scores and runs."""
