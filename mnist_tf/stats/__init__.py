"""Statistics of images and predictions, in NumPy alone, for the other subpackages.

Imports nothing of the package.
"""
