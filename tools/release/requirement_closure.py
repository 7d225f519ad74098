"""What a distribution needs to run: the closure of ``Requires-Dist`` over a given set of distributions.

The candidates come from unpacked folders and from wheel files alike; nothing is looked up anywhere else.
"""

from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


class UnmetRequirement(ValueError):
    """A declared requirement has no candidate, or a candidate of another version than declared."""


def find_distributions(places: Iterable[Path]) -> dict[str, tuple[Distribution, Path]]:
    """Reads the distribution that each folder or wheel file holds; returns {name: (distribution, place)}."""
    found = {}
    for place in places:
        for distribution in distributions(path=[str(place)]):
            found[canonicalize_name(distribution.metadata["Name"])] = (distribution, place)
    return found


def requirements(distribution: Distribution, extras: Iterable[str]) -> list[Requirement]:
    """The requirements of a distribution on this platform, with those of the extras that were asked for."""
    wanted = ["", *extras]
    declared = [Requirement(text) for text in distribution.requires or []]
    return [
        each
        for each in declared
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in wanted)
    ]


def requirement_closure(
    root: str, extras: Iterable[str], candidates: dict[str, tuple[Distribution, Path]]
) -> dict[str, set[str]]:
    """Walks the requirements of `root`; returns every distribution reached, itself included, with its extras.

    Raises:
      UnmetRequirement: A requirement that no candidate fulfils; names who declares it.
    """
    reached: dict[str, set[str]] = {canonicalize_name(root): set(extras)}
    waiting = list(reached)
    while waiting:
        name = waiting.pop()
        for requirement in requirements(candidates[name][0], reached[name]):
            needed = canonicalize_name(requirement.name)
            if needed not in candidates:
                raise UnmetRequirement(
                    f"{name} declares {requirement}, which is not among the dependencies of the tested BUILD target"
                )
            version = candidates[needed][0].version
            if not requirement.specifier.contains(version, prereleases=True):
                raise UnmetRequirement(f"{name} declares {requirement}; this tree has {needed} {version}")
            new = requirement.extras - reached.get(needed, set())
            if needed not in reached or new:
                reached.setdefault(needed, set()).update(new)
                waiting.append(needed)
    return reached
