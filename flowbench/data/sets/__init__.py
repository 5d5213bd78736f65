"""One module for each family of data sets; importing one registers its sets."""
