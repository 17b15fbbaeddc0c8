"""Frames of a video: what is one, its decoding, its clock, and its pictures."""
