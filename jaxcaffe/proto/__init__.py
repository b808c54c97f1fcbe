"""The schema of Caffe's files, and reading and writing them."""
