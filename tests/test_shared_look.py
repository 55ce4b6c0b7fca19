"""Items of a shared List or Dict that are read so often that the reads take no lock; see csrc/core/shared_look.h."""

import random

import pytest

import pyconc
from pyconc import shared

OFTEN = 100  # more than it takes until reads look without the lock


def read_often(container):
    for _ in range(OFTEN):
        len(container)


# In the word of an item, beside it, larger than what is read without the lock, and pickled.
VALUES = [None, True, 5, 2**70, 1.5, "text", "x" * 300, b"bytes", ("a", 1), {"a": [1]}]


def test_a_dict_that_is_read_often_is_what_it_is():
    dice = random.Random(12)
    model, table = {}, shared.Dict()
    for round_number in range(400):
        key = dice.choice(["a", 1, b"b", "y" * 200, (1, "a"), None, *range(10)])
        if key in model and dice.random() < 0.4:
            del model[key], table[key]
        elif round_number % 90 == 89:
            model.clear()
            table.clear()
        else:
            model[key] = table[key] = dice.choice(VALUES)
        if round_number % 50 == 0:
            read_often(table)
        other = dice.choice([key, "a", 1.0, 77])
        assert len(table) == len(model)
        assert (other in table) == (other in model)
        assert table.get(other, "none") == model.get(other, "none")
    with pytest.raises(KeyError, match="missing"):
        table["missing"]


def test_a_list_that_is_read_often_is_what_it_is():
    dice = random.Random(12)
    model, items = [], shared.List()
    for round_number in range(400):
        value = dice.choice(VALUES)
        if model and dice.random() < 0.4:
            place = dice.choice([0, -1, dice.randrange(len(model))])
            assert items.pop(place) == model.pop(place)
        elif model and dice.random() < 0.3:
            place = dice.randrange(len(model))
            model[place] = items[place] = value
        else:
            model.append(value)
            items.append(value)
        if round_number % 50 == 0:
            read_often(items)
        assert len(items) == len(model)
        if model:
            place = dice.randrange(-len(model), len(model))
            assert items[place] == model[place]
    for place in (len(model), -len(model) - 1):
        with pytest.raises(IndexError):
            items[place]


def test_an_object_in_an_item_is_had_by_who_reads_it():
    table = shared.Dict(inner=shared.List([1]))
    read_often(table)
    assert table["inner"][0] == 1
    inner = table["inner"]
    del table["inner"]
    assert inner[:] == [1]
    assert "inner" not in table


def write(table, items, count):
    for i in range(count):
        table["key"] = (i, "x" * (i % 100), i)
        items[0] = f"{i} {i}"
        if i % 50 == 0:
            table.update((n, n) for n in range(i % 200))
            table.clear()
            table["key"] = (i, "x" * (i % 100), i)


def test_what_another_process_writes_is_read_whole():
    table, items = shared.Dict(), shared.List(["0 0"])
    with pyconc.ProcessPoolExecutor(1) as pool:
        writing = pool.submit(write, table, items, 2000)
        while not writing.done():
            value = table.get("key")
            assert value is None or (value[0] == value[2] and len(value[1]) == value[0] % 100)
            first, second = items[0].split()
            assert first == second
        writing.result()
    assert table["key"] == (1999, "x" * 99, 1999)
    assert items[0] == "1999 1999"
