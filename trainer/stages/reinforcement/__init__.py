"""Reinforcement learning: the stage, and the two ways to turn rewards into advantages."""
