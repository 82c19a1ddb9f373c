"""Out to the engines that labs use, and back: recipes as their configurations, their logs as our observations."""
