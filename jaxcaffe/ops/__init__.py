"""One function per costly operation; layers and solvers call these."""
