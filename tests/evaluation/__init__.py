"""Tests of plaudit.evaluation; example_report.py builds the report that the page is tested and looked at with."""
