"""Recipes, fitting, fine-tuning and experiments; the only place that trains."""
