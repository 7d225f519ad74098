"""The main job: train on a real genome, compare, save, serve, generate and score, in a few minutes on a CPU."""

from subquad.quickstart.errors import NothingLearned as NothingLearned
from subquad.quickstart.errors import QuickstartError as QuickstartError
from subquad.quickstart.errors import ServerDidNotStart as ServerDidNotStart
