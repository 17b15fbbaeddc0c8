"""Counts an archive on a Ray cluster. The pieces that workers run do not import Ray."""
