"""The stages of `on_a_gpu.py`, one file for each question."""
