"""Cells: rows of a matrix in memory or in files, and the open peaks of each."""
