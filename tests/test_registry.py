"""The registry: entries of other packages by the same path as in-tree ones, and loud about whatever is wrong."""

from __future__ import annotations

import pytest
from refusal_bench.errors import InputError
from refusal_bench.registry import Registry

GROUP = "refusal_bench.test_things"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put a package with the given entry points of GROUP on the path, as an installer would."""

    def install(name, *points, code="def thing():\n    return 42\n\nnumber = 42\n"):
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "\n".join(points) + "\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def things(**builtin):
    return Registry("thing", GROUP, builtin)


def test_in_tree_and_foreign_entries_load_alike(package):
    package("foreign_one", "theirs = foreign_one:thing")
    registry = things(ours="os.path:join")
    assert registry.names() == ["ours", "theirs"]
    assert registry.get("ours")("a", "b").startswith("a")
    assert registry.get("theirs")() == 42
    assert (registry.origin("ours"), registry.origin("theirs")) == ("refusal-bench", "package foreign_one")


def test_nothing_is_imported_before_it_is_asked_for(package):
    package("foreign_two", "bad = foreign_two:thing", code="raise RuntimeError('imported')\n")
    registry = things(ours="os.path:join")
    assert registry.names() == ["bad", "ours"]
    registry.get("ours")
    with pytest.raises(
        InputError, match=r"thing 'bad' of package foreign_two cannot be loaded \(RuntimeError: imported"
    ):
        registry.get("bad")


@pytest.mark.parametrize("target", ["no_such_module_here:thing", "foreign_three:no_such_attribute"])
def test_a_broken_entry_point_is_bad_input(package, target):
    package("foreign_three", f"bad = {target}")
    with pytest.raises(InputError, match="package foreign_three cannot be loaded"):
        things().get("bad")


def test_an_entry_of_the_wrong_kind_is_bad_input(package):
    package("foreign_four", "number = foreign_four:number")
    with pytest.raises(InputError, match="is a int"):
        things().get("number")


def test_two_entries_of_one_name_are_refused_with_both_origins(package):
    package("foreign_five", "join = foreign_five:thing")
    registry = things(join="os.path:join")
    with pytest.raises(InputError, match="two entries for thing 'join': refusal-bench and package foreign_five"):
        registry.names()


def test_an_unknown_name_lists_what_there_is_and_the_nearest():
    registry = things(weapons="os:sep", fraud="os:sep")
    with pytest.raises(InputError, match=r"no thing 'wepons'; there are: fraud, weapons\. Did you mean 'weapons'\?"):
        registry.get("wepons")
    with pytest.raises(InputError, match="there are: none"):
        things().get("anything")


def test_an_entry_added_after_a_look_up_is_found():
    registry = things()
    assert registry.names() == []
    registry.add("late", "a folder", lambda: len)
    assert registry.get("late") is len
