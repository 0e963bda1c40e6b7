"""A policy taken out of its study, for use anywhere else: run by the head, never by a job."""
