"""The built-in tiny domains, one file for each kind."""
