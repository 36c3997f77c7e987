"""Facial measures with error bars, and their tables."""
