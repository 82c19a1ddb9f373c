"""The search: candidate plans, what each comes to, and which ones to try."""
