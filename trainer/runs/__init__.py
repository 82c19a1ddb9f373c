"""From a recipe to a run on disk: plan, execute, store, show."""
