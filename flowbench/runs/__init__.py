"""The run folder, and runs that travel."""
