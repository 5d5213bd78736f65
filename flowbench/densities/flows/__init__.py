"""Normalizing flows: the bijections they are made of and one module per architecture."""
