"""What can go wrong in the quickstart itself; the packages it calls raise their own errors."""


class QuickstartError(RuntimeError):
    """The main job cannot go on."""


class NothingLearned(QuickstartError):
    """The trained model predicts held-out bases no better than their frequencies do."""


class ServerDidNotStart(QuickstartError):
    """The server process ended, or did not answer in time."""
