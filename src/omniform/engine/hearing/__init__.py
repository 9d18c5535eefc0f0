"""Writing down what is said in sound of any length: windows, times, streams."""
