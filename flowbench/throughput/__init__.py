"""How fast the passes of a model are, on any machine: timed beside their own convolutions, compared, gated."""
