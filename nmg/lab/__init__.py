"""What uses both the method and the bundled world: profiles, the command line, figures, metrics, the benchmark,
the panel."""
