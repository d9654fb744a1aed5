"""The modules of `reproduce_paper.py`."""
