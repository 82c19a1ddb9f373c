"""Quality: how each stage of a recipe changes the pass rate on every domain, in every draw."""
