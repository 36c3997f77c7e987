"""Predictions against labels: metrics, scores, plots and reports."""
