"""Published tables as data, and many models on one data set."""
