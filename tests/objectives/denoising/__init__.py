"""Tests of denoising."""
