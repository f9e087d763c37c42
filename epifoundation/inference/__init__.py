"""Inference: one reader of cells, what is read off their embedding, and where the results are put."""
