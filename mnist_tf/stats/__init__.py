"""What is measured of images and answers, in NumPy alone, for every room below.

Imports nothing of the package.
"""
