"""Exact figures of a trained model, averaged weights, and paired differences."""
