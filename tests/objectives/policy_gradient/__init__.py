"""Tests of policy gradient."""
