"""Recipes and published systems side by side, run for real; the demonstration and the gate."""
