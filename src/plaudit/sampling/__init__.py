"""Sampling beyond one output after another: rollouts that are judged; best-of-n, trees, decoding with tools, guidance."""

from plaudit.sampling.rollouts import Gathered, Rollout, gather

__all__ = ["Gathered", "Rollout", "gather"]
