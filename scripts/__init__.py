"""Scripts of the repository: train and measure the bundled model, measure time and memory."""
