"""The transformer of Wu et al. 2025: training by gradient descent, on Lightning."""
