"""The front door from Python: `import flowbench as fb` hands these names on. No module has the name of one of them."""
