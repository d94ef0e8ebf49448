"""Sampling beyond one output after another: best-of-n, trees, decoding with tools, guidance."""
