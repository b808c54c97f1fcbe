"""What `python -m jaxcaffe.profile` measures, and how it tells."""
