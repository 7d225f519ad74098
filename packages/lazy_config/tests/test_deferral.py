"""Configs in ``*_cfg`` parameters: handed over unbuilt, closed over what surrounds them."""

from typing import Any

import pytest

from subquad.lazy_config import (
    PLACEHOLDER,
    Config,
    ExpressionError,
    LazyConfig,
    MissingFieldError,
    ReferenceCycleError,
    UnknownFieldError,
    expr,
    from_yaml,
    instantiate,
    to_yaml,
)


class Keeper:
    """Keeps what it is given."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:  # tells type checkers that any attribute may be there
        raise AttributeError(name)


class Mixer:
    def __init__(self, dim: int, hidden: int = 1, name: str = "", kernel_cfg: Any = None, norm: Any = None) -> None:
        self.dim, self.hidden, self.name, self.kernel_cfg, self.norm = dim, hidden, name, kernel_cfg, norm


class Block:
    def __init__(self, dim: int, mixer_cfg: Any, size: int = 0) -> None:
        self.mixer_cfg = mixer_cfg
        self.mixer = instantiate(mixer_cfg, dim=dim)


def test_a_config_in_a_cfg_parameter_is_handed_over_unbuilt() -> None:
    built = instantiate(LazyConfig(Block)(dim=8, mixer_cfg=LazyConfig(Mixer)(dim=PLACEHOLDER, hidden="4 * dim")))
    assert isinstance(built.mixer_cfg, Config)
    assert built.mixer_cfg.dim is PLACEHOLDER
    assert (built.mixer.dim, built.mixer.hidden) == (8, 32)


def test_configs_in_containers_of_a_cfg_parameter_are_handed_over_too() -> None:
    tree = LazyConfig(Keeper)(
        n=2,
        parts_cfg=[LazyConfig(Mixer)(dim="n"), ("${n}", {"a": LazyConfig(Mixer)()}), expr("n + 1")],
        other_cfg=expr("n"),
    )
    parts = instantiate(tree).parts_cfg
    assert parts == [LazyConfig(Mixer)(dim=2), (2, {"a": LazyConfig(Mixer)()}), 3]
    assert instantiate(tree).other_cfg == 2


def test_references_to_the_outside_become_values_and_those_inside_stay_references() -> None:
    tree = LazyConfig(Keeper)(
        H=3,
        name="net",
        low=-2,
        sizes=[4, 5],
        block=LazyConfig(Keeper)(
            W=7,
            mixer_cfg=LazyConfig(Mixer)(
                dim="max(H, W)",
                hidden="dim * H + low ** 2 + max(sizes)",
                name="${name}-${dim}-${H}",
                norm=["${..W}", "${$.sizes}", expr("1 + 2"), "${name}"],
            ),
        ),
    )
    handed = instantiate(tree).block.mixer_cfg
    assert handed.dim == 7
    assert handed.hidden == expr("dim * 3 + (-2) ** 2 + max(4, 5)")
    assert handed.name == "net-${dim}-3"
    assert handed.norm[1:3] == [[4, 5], expr("1 + 2")]
    handed.name = "${dim}"
    handed.norm = None
    assert instantiate(handed).hidden == 7 * 3 + 4 + 5
    assert instantiate(handed, dim=2).hidden == 2 * 3 + 4 + 5


def test_absolute_references_into_the_handed_part_are_kept_as_relative_ones() -> None:
    tree = LazyConfig(Keeper)(
        net=LazyConfig(Keeper)(
            mixer_cfg=LazyConfig(Mixer)(
                dim=4, hidden=expr("$.net.mixer_cfg.dim * 2"), kernel_cfg=LazyConfig(Mixer)(dim="${net.mixer_cfg.dim}")
            )
        )
    )
    handed = instantiate(tree).net.mixer_cfg
    assert handed.hidden == expr(".dim * 2")
    assert handed.kernel_cfg.dim == expr("..dim")
    moved = LazyConfig(Keeper)(elsewhere=[handed])
    built = instantiate(moved, **{"elsewhere[0].dim": 5}).elsewhere[0]
    assert built.hidden == 10
    assert instantiate(built.kernel_cfg).dim == 5


def test_names_found_nowhere_wait_for_the_receiver() -> None:
    handed = instantiate(
        LazyConfig(Keeper)(mixer_cfg=LazyConfig(Mixer)(hidden="dim * 2", name="${kernel_cfg}"))
    ).mixer_cfg
    assert instantiate(handed, dim=3, kernel_cfg="k").hidden == 6
    with pytest.raises(ExpressionError, match=r"^mixer_cfg\.name: kernel_cfg refers to nothing"):
        instantiate(handed, dim=3)


def test_a_required_parameter_hides_the_name_further_out() -> None:
    tree = LazyConfig(Keeper)(dim=64, mixer_cfg=LazyConfig(Mixer)(hidden="dim * 2"))
    handed = instantiate(tree).mixer_cfg
    assert instantiate(handed, dim=3).hidden == 6
    with pytest.raises(MissingFieldError, match=r"mixer_cfg\.dim of Mixer"):
        instantiate(handed)


def test_a_field_may_take_the_value_of_its_own_name_outside() -> None:
    tree = LazyConfig(Keeper)(
        dim=64, mixer_cfg=LazyConfig(Mixer)(dim="dim", kernel_cfg=LazyConfig(Mixer)(dim="dim // 2"))
    )
    handed = instantiate(tree).mixer_cfg
    assert handed.dim == 64
    assert handed.kernel_cfg.dim == "dim // 2"
    assert instantiate(instantiate(handed).kernel_cfg).dim == 32


def test_a_reference_to_a_config_hands_over_a_copy_of_it() -> None:
    tree = LazyConfig(Keeper)(
        n=3,
        shared=LazyConfig(Mixer)(dim="n"),
        mixer_cfg="${shared}",
        other_cfg=LazyConfig(Mixer)(dim=1, kernel_cfg="${shared}", norm="${shared}"),
    )
    built = instantiate(tree)
    assert built.mixer_cfg == built.other_cfg.kernel_cfg == built.other_cfg.norm == LazyConfig(Mixer)(dim=3)
    assert isinstance(built.shared, Mixer)


def test_values_that_look_like_references_stay_what_they_are() -> None:
    tree = LazyConfig(Keeper)(
        text="$${plain}", mixer_cfg=LazyConfig(Mixer)(dim=1, name="${text}", norm="a ${text} ${dim}")
    )
    handed = instantiate(tree).mixer_cfg
    assert instantiate(handed).name == "${plain}"
    assert instantiate(handed).norm == "a ${plain} 1"


def test_a_handed_over_config_can_be_written_and_read() -> None:
    tree = LazyConfig(Keeper)(H=3, mixer_cfg=LazyConfig(Mixer)(dim="H", hidden="dim + H"))
    handed = instantiate(tree).mixer_cfg
    assert from_yaml(to_yaml(handed), allowed=[__name__]) == handed


def test_a_receiver_cannot_change_the_tree_it_came_from() -> None:
    tree = LazyConfig(Keeper)(mixer_cfg=LazyConfig(Mixer)(dim=1, norm=[1]))
    handed = instantiate(tree).mixer_cfg
    handed.dim = 5
    handed.norm.append(2)
    assert tree.mixer_cfg == LazyConfig(Mixer)(dim=1, norm=[1])


def test_errors_of_a_handed_over_config_name_the_path_it_came_from() -> None:
    tree = LazyConfig(Keeper)(blocks=[LazyConfig(Block)(dim=2, mixer_cfg=LazyConfig(Mixer)(hidden="1 / 0"))])
    with pytest.raises(ExpressionError, match=r"^blocks\[0\]\.mixer_cfg\.hidden: '1 / 0': division by zero"):
        instantiate(tree)
    handed = instantiate(LazyConfig(Keeper)(mixer_cfg=LazyConfig(Mixer)())).mixer_cfg
    with pytest.raises(UnknownFieldError, match=r"^mixer_cfg\.dmi is not a parameter of Mixer; did you mean 'dim'"):
        handed.dmi = 3


def test_unknown_fields_in_unbuilt_parts_are_refused_before_building() -> None:
    built: list[int] = []
    tree = LazyConfig(Keeper)(first=LazyConfig(built.append)(1), mixer_cfg=LazyConfig(Mixer)())
    tree.mixer_cfg._lazy_fields["dmi"] = 3
    with pytest.raises(UnknownFieldError, match=r"mixer_cfg\.dmi"):
        instantiate(tree)
    assert built == []


def test_copies_through_references_are_bounded() -> None:
    doubling: dict[str, Any] = {f"a{i}_cfg": LazyConfig(Mixer)(norm=[f"${{a{i + 1}_cfg}}"] * 2) for i in range(30)}
    with pytest.raises(ExpressionError, match="more than 10000 references"):
        instantiate(LazyConfig(Keeper)(**doubling, a30_cfg=LazyConfig(Mixer)(dim=1)))


def test_circles_between_unbuilt_configs_are_refused() -> None:
    tree = LazyConfig(Keeper)(a_cfg=LazyConfig(Mixer)(norm="${b_cfg}"), b_cfg=LazyConfig(Mixer)(norm="${a_cfg}"))
    with pytest.raises(ReferenceCycleError, match="refer to one another: a_cfg -> b_cfg -> a_cfg"):
        instantiate(tree)
