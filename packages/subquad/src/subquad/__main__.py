"""``python -m subquad``: the same program as the ``subquad`` command."""

from subquad.command.application import main

if __name__ == "__main__":
    main()
