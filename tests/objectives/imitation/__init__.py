"""Tests of imitation."""
