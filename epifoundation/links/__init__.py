"""Links between peaks and genes: pairs, effects and their p-values."""
