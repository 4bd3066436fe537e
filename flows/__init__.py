"""Orchestration only: the order of the stages, branches and retries."""
