"""The built-in tiny domains: skills of one turn, and guessing in several."""
