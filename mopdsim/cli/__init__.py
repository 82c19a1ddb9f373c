"""The commands. Leaves out: all arithmetic."""
