"""Pictures of models: each a function of (model, seed), none touches matplotlib's global state."""
