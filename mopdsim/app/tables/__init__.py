"""What the pages show, as tables."""
