"""Whole tables: run, shared among machines, submitted, watched."""
