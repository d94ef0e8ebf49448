"""Tests of plaudit.feedback; strategies.py builds the records that they are tested on."""
