"""A look at a file of one's own before there is a study, and a study written for it: `make look`, `make new`."""
