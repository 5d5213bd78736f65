"""Variational autoencoders: the layers they are made of and one module per architecture."""
