"""Fitting models in closed form: one reader of training data, one pass of sums over cells, and readouts by regression."""
