"""Fitting: the quality model inverted, from what runs scored to parameters with their uncertainty.

`forest` holds what runs did, `latents` the unknowns and their priors, `predict` walks the forest with the functions
that forecast, `posterior` finds the most probable unknowns and their covariance, `recovery` checks the intervals on
simulated observations. `mopdsim.fit.quality` is the way in, and writes what was found as a calibration.
Leaves out: cost constants (`mopdsim.fit.cost`), collapse (its threshold has no slope), models of a second size.
"""
