"""What to make of the search's result: the finalists, how sure, what would change it, what to measure."""
