"""What is measured of images and predictions, in NumPy alone, for every room below.

Imports nothing of the package.
"""
