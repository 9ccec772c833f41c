"""Measuring matchers on recordings: methods, truth, scores, tables and pictures."""
