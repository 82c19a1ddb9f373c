"""Simulator of multi-teacher on-policy distillation and its rivals. Never imports torch."""

__version__ = "0.1.0"
