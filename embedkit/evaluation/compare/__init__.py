"""The comparison: methods side by side on the same rows, what they cost, and which one to take."""
