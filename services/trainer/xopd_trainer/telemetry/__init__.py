"""What is measured of a run: metrics, signals, spans and clocks."""
