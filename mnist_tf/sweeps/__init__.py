"""Sweeps: many runs of one training, each with settings that Optuna suggests.

A trial is an ordinary run in a process of its own. What is known of it is in Optuna's
storage and in its model directory, nowhere else: a sweep that was killed reads both and
goes on. Imports `errors`, `config`, `data` and `run`; Optuna is imported here alone.
"""
