"""The version, by itself: whatever writes it into a file needs nothing else."""

__version__ = "0.2.0.dev0"
