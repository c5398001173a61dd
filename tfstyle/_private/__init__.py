"""What the package uses inside, and nobody outside should: images, files, Keras files, loggers."""
