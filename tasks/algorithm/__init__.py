"""The paper's algorithm on plain values; standard library only."""
