"""The phases of a search: what each one's tokens take, compute and record."""
