"""What is measured of answers, in NumPy alone: by training, reports and servers alike.

Imports nothing of the package.
"""
