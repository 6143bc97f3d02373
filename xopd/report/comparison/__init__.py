"""What a comparison of training methods leaves behind, read back and shown: tables, a verdict and one HTML page."""
