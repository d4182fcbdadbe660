"""A small project with a classifier."""
