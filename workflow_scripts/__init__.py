"""Plumbline's stages: one package per stage of the chain, and `common` for what they share."""

import os

from workflow_scripts.common.startup import hold_collector, leave_out
from workflow_scripts.common.surroundings import settle

hold_collector()
leave_out()
settle(os.environ)  # before a library is imported that looks for its cache
