"""Renders face images with exact points from sources that anyone may use. See README.md here."""
