"""Peaks of a model: vocabulary, mapping of the peaks of data, cells recognized by their peaks."""
