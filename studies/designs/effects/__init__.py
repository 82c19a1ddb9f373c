"""Studies of one effect each: conflict on a real model, seconds."""
