"""Caffe's solvers as optax schedules and transformations."""
