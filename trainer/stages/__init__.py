"""The training loop and one file for each kind of stage."""
