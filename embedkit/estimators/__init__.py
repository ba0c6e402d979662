"""The scikit-learn face, and the trained classifier behind it.

Import the files themselves, or the public names from `embedkit`: `frozen` needs no scikit-learn, the others do.
"""
