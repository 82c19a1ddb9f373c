"""Predicted against measured, one file for each kind of table."""
