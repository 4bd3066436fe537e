"""Processes, GPUs, files and servers of the machine."""
