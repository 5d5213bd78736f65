"""What the operating system gives: safe files, signals, processes, memory, progress, the environment."""
