"""Caffe's own snapshot files: what a run leaves to Caffe and takes over from it."""
