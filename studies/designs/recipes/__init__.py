"""Studies of which recipe wins under which condition."""
