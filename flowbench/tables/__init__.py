"""Table files, the results that fill them, and the bounds of the accuracy gate."""
