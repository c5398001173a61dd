"""Studies and showpieces as library functions; the scripts beside the package only call them."""
