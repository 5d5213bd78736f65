"""Models of other people: density models made of what they have, counted as ours are."""
