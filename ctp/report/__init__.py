"""Reports on the results of runs: each alone, several compared, and the paper's numbers."""
