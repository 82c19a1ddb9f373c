"""Studies of one effect each: learning, conflict, caps, forgetting, habits, seconds."""
