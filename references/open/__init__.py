"""Trains the family ``open`` from faces that anyone may use. See README.md of references/."""
