"""Peaks of a model: the vocabulary, mapping peaks of data onto it, and cells recognized by their peaks."""
