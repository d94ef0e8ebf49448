"""Tests of reward models."""
