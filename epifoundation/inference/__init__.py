"""Inference: read cells in blocks, embed them, compute results, write them."""
