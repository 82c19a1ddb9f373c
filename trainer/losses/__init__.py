"""Losses and divergences: pure functions of tensors."""
