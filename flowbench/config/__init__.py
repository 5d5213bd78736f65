"""Experiment files: their schema, how they are read and merged, the names that they may use."""
