"""What is trained, of either kind, and a run brought back."""
