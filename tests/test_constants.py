"""Each number with a name in the sources is in the table of benchmarks/constants.py, or has a reason not to be."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"

if not FOLDER.exists():
    pytest.skip("the tests were taken away from the sources", allow_module_level=True)

spec = importlib.util.spec_from_file_location("constants", FOLDER / "constants.py")
constants = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = constants
spec.loader.exec_module(constants)

FIXED = [key for keys in constants.FIXED.values() for key in keys.split()]


@pytest.mark.parametrize("constant", constants.TABLE, ids=lambda constant: constant.key)
def test_a_constant_is_defined_where_the_table_has_it(constant):
    """And the values to try are others than its own."""
    assert constants.its_value(constant) not in constant.others


def test_every_named_number_has_a_place():
    in_table = [constant.key for constant in constants.TABLE]
    named = constants.named_numbers()
    assert sorted(named - {*in_table, *FIXED}) == [], "neither in the table nor said to be fixed"
    assert sorted({*in_table, *FIXED} - named) == [], "no longer there, or without a number"
    assert not {*in_table} & {*FIXED}
    assert len(in_table) == len({*in_table})
    assert len(FIXED) == len({*FIXED})


def test_every_work_is_there():
    defined = {node.name for node in ast.parse(constants.WORK.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert {constant.work for constant in constants.TABLE} <= defined


def test_a_value_takes_the_place_of_another(tmp_path):
    (tmp_path / "a.h").write_text("#define LIMIT (1 << 20)  // bytes\n#define LIMIT_2 3\n")
    constant = constants.Constant("a.h", "LIMIT", (), "")
    constants.set_value(constant, tmp_path, "0")
    assert (tmp_path / "a.h").read_text() == "#define LIMIT 0  // bytes\n#define LIMIT_2 3\n"
    (tmp_path / "a.h").write_text("#define ANOTHER 3\n")
    with pytest.raises(SystemExit, match="defines LIMIT 0 times"):
        constants.its_value(constant, tmp_path)
