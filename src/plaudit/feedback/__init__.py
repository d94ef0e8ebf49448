"""Feedback: what sources say about outputs, the store that keeps it, the files it comes in, and the examples it gives."""
