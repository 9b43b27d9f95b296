"""Reports on trained models: figures, plots, pages, comparisons.

Imports `errors`, `config`, `data`, `stats`, `artifact` and `predictor`; no TensorFlow.
"""
