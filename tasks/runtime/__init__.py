"""Processes, GPUs, files and servers of this machine."""
