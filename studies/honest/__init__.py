"""The honest test: a fit without the held-out runs, its forecasts of them, and simple rules beside it."""
