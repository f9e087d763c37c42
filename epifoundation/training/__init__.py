"""Fitting models in closed form: training data, one pass of sums over cells, regressions."""
