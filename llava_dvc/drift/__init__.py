"""Compares the readings of live cameras with what the adapter was trained on."""
