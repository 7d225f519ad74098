"""The ``subquad`` command: one program that offers the commands of every installed package."""

from subquad.command.application import build_application as build_application
from subquad.command.application import main as main
from subquad.command.discovery import COMMAND_PACKAGES as COMMAND_PACKAGES
from subquad.command.discovery import ENTRY_POINT_GROUP as ENTRY_POINT_GROUP
from subquad.command.discovery import Registration as Registration
from subquad.command.discovery import find_registrations as find_registrations
