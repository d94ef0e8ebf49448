"""Tests of reward terms."""
