"""`xopd compare`: a matrix of training methods and seeds on equal data and budget, run on one machine."""
