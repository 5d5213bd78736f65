"""The forecasters: one architecture a module, each registered under its name beside its definition."""
