"""Mutants: every small change once, each in a copy, and the test that notices it."""

import ast
from pathlib import Path

import pytest

from benchmarks import mutants

SOURCE = '''"""Sizes."""

LIMIT = 3


def fits(size: int) -> bool:
    """Returns whether a size is within the limit."""
    return size <= LIMIT
'''
TEST = """from {package}.room.sizes import fits


def test_a_small_size_fits():
    assert fits({size})
"""


@pytest.fixture
def project(tmp_path):
    """A package of one module, whose test does not try the limit itself."""
    # With the name of the package that is installed, which must not be imported.
    room, tests = tmp_path / mutants.PACKAGE / "room", tmp_path / "tests" / "room"
    for folder in (room, tests):
        folder.mkdir(parents=True)
    (room / "sizes.py").write_text(SOURCE)
    (tests / "test_sizes.py").write_text(TEST.format(package=mutants.PACKAGE, size=2))
    return tmp_path


def changes(source):
    return list(mutants.mutants("a.py", source.encode()))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("0 < x in y", ["0 <= x in y", "0 < x not in y", "1 < x in y"]),
        ("-a + 2", ["-a - 2", "a + 2", "-a + 3"]),
        ("x += y", ["x -= y"]),
        ("not b or True", ["not b and True", "b or True", "not b or False"]),
        ("f(a, b, c=d)", ["f(a, b)", "f(b, a, c=d)"]),
        ("def f(a: g(b, c) = 'text') -> g(b, c): return f'{a + 1}'", []),
        ("text = 'naïve'; a * (b + c)  # why", [
            "text = 'naïve'; a / (b + c)  # why", "text = 'naïve'; a * (b - c)  # why",
        ]),
    ],
)  # fmt: skip
def test_each_change_is_made_once(source, expected):
    found = [mutant.source.decode() for mutant in changes(source)]
    # The changed expression is in brackets.
    assert [ast.unparse(ast.parse(text)) for text in found] == [
        ast.unparse(ast.parse(text)) for text in expected
    ]
    assert all(text.endswith("# why") == source.endswith("# why") for text in found)


def test_a_change_is_caught_by_a_test_or_survives(project):
    drawn = sorted(mutants.draw(project, "", 1), key=lambda mutant: mutant.line)
    found = {str(mutant): name for mutant, name in mutants.tried(project, drawn, 1)}
    path = f"{mutants.PACKAGE}/room/sizes.py"
    assert found == {
        f"{path}:3  3 -> 4": "",
        f"{path}:8  size <= LIMIT -> size < LIMIT": "",
    }
    (project / "tests" / "room" / "test_sizes.py").write_text(
        TEST.format(package=mutants.PACKAGE, size=3)
    )
    found = [name for _, name in mutants.tried(project, drawn, 1)]
    assert found == ["", "tests/room/test_sizes.py::test_a_small_size_fits"]
    assert (project / path).read_text() == SOURCE


def test_the_seed_decides_the_draw(project):
    one, same = (mutants.draw(project, "", 1) for _ in range(2))
    assert one == same
    assert len(one) == 2


def test_the_tests_nearest_to_a_module_come_first():
    groups = mutants.tests_of(Path(__file__).parents[2], f"{mutants.PACKAGE}/model.py")
    assert groups[0] == ["tests/test_model.py"]
    assert "tests/test_artifact.py" in groups[1]
    assert mutants.END_TO_END in groups[-1]


@pytest.mark.fault
def test_a_test_that_fails_without_a_mutant_proves_nothing(project, capsys):
    (project / "tests" / "room" / "test_sizes.py").write_text(
        TEST.format(package=mutants.PACKAGE, size=9)
    )
    drawn = mutants.draw(project, "", 1)
    assert [name for _, name in mutants.tried(project, drawn, 1)] == ["", ""]
    words = "test_a_small_size_fits fails without a mutant, too\n"
    assert capsys.readouterr().err.endswith(words)
