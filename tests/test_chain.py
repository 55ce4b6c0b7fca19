"""What map() of processes returns hands out lists' items one by one, and keeps none that was taken."""

import gc
import threading
import weakref

import pytest

from pyconc import _core


class Item:
    pass


def lists(*yielded, ended=None):
    try:
        yield from yielded
    finally:
        if ended is not None:
            ended.append(True)


def test_items_come_in_order_and_empty_lists_are_passed_over():
    chain = _core.Chain(lists([1, 2], [], [3]))
    assert iter(chain) is chain
    assert list(chain) == [1, 2, 3]
    assert next(chain, None) is None


def test_an_item_that_was_taken_is_let_go():
    refs = []

    def yield_items():
        for _ in range(2):
            items = [Item(), Item()]
            refs.extend(map(weakref.ref, items))
            yield items
            del items

    for number, item in enumerate(_core.Chain(yield_items())):
        assert refs[number]() is item
        assert [ref() for ref in refs[:number]] == [None] * number
        del item
    assert number == 3


@pytest.mark.parametrize("taken", [1, 2])
def test_close_ends_it_and_lets_everything_go(taken):
    ended = []
    items = [Item(), Item()]
    refs = [weakref.ref(item) for item in items]
    chain = _core.Chain(lists(items, [], ended=ended))
    del items
    for _ in range(taken):
        next(chain)
    chain.close()
    chain.close()
    assert list(chain) == []
    assert ended == [True]
    assert [ref() for ref in refs] == [None, None]


def test_one_that_is_closed_before_it_began_has_no_items():
    chain = _core.Chain(lists([1]))
    chain.close()
    assert list(chain) == []


def test_what_the_generator_raises_ends_it():
    def fail():
        yield [1]
        raise LookupError("5")

    chain = _core.Chain(fail())
    assert next(chain) == 1
    with pytest.raises(LookupError, match="5"):
        next(chain)
    assert list(chain) == []


def test_one_that_is_dropped_closes_its_generator_also_in_a_cycle():
    ended = []
    item = Item()
    chain = _core.Chain(lists([item, item], ended=ended))
    item.chain = chain
    ref = weakref.ref(chain)
    assert next(chain) is item
    del item, chain
    gc.collect()
    assert ref() is None
    assert ended == [True]


def test_two_threads_cannot_wait_for_the_next_list_at_once():
    begun, go_on = threading.Event(), threading.Event()

    def wait():
        begun.set()
        go_on.wait()
        yield [5]

    chain = _core.Chain(wait())
    found = []
    thread = threading.Thread(target=lambda: found.append(next(chain)))
    thread.start()
    begun.wait()
    with pytest.raises(ValueError, match="already executing"):
        next(chain)
    go_on.set()
    thread.join()
    assert found == [5]


def test_what_is_no_generator_of_lists_is_refused():
    for wrong in ([[1]], iter([[1]]), None):
        with pytest.raises(TypeError):
            _core.Chain(wrong)
    with pytest.raises(TypeError, match="lists are chained, not tuple"):
        next(_core.Chain(lists((1, 2))))
