"""Whether a timeline is what Chrome's trace events want, and what Perfetto's trace processor makes a whole of.

That processor drops what it does not understand and counts it, so a timeline that is wrong would open all the same.
"""

import collections
import gzip
import json

# What each kind of event has besides its kind, name, process, lane and time.
FIELDS = {
    "X": {"cat", "dur", "args"},
    "s": {"cat", "id"},
    "f": {"cat", "id", "bp"},
    "C": {"cat", "args"},
    "i": {"cat", "s", "args"},
    "M": {"args"},
}
LARGEST = 2**53  # in JSON, where numbers are a float's


def read(path):
    """Return a timeline's document; it is JSON to the letter."""
    with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as file:
        return json.loads(file.read().decode(), parse_constant=refuse_constant, object_pairs_hook=make_object)


def refuse_constant(name):
    raise AssertionError(f"JSON has no {name}")


def make_object(pairs):
    made = dict(pairs)
    assert len(made) == len(pairs), f"a key comes twice: {pairs}"
    return made


def check(document):
    """Raise AssertionError unless a document is a timeline whose events fit together."""
    assert document["displayTimeUnit"] in ("ms", "ns")
    events = document["traceEvents"]
    for event in events:
        check_event(event)
    check_names(events)
    check_lanes(events)
    check_arrows(events)
    check_counters(events)


def check_event(event):
    """What the format wants of each kind of event."""
    assert set(event) == {"ph", "name", "pid", "tid", "ts"} | FIELDS[event["ph"]]
    assert type(event["name"]) is str
    assert event["name"]
    for number in ("pid", "tid"):
        assert type(event[number]) is int
        assert 0 <= event[number] < 2**31
    assert 0 <= event["ts"] < LARGEST
    if "cat" in event:
        assert type(event["cat"]) is str
        assert event["cat"]
    if "args" in event:
        assert type(event["args"]) is dict
    if "id" in event:
        assert type(event["id"]) is int
        assert 0 <= event["id"] < LARGEST
    if event["ph"] == "X":
        assert 0 <= event["dur"] < LARGEST
    elif event["ph"] == "f":
        assert event["bp"] == "e"  # else the arrow leads to the slice that comes next
    elif event["ph"] == "C":
        assert event["args"]
        assert all(type(value) in (int, float) and value >= 0 for value in event["args"].values())
    elif event["ph"] == "i":
        assert event["s"] in ("t", "g")
    elif event["ph"] == "M":
        assert event["name"] in ("process_name", "thread_name")
        assert type(event["args"]["name"]) is str
        assert event["args"]["name"]


def check_names(events):
    """Each process and lane in which something happens has one name."""
    named = [(e["name"], e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"]
    named += [(e["name"], e["pid"]) for e in events if e["ph"] == "M" and e["name"] == "process_name"]
    assert len(named) == len(set(named))
    for event in events:
        if event["ph"] in "Xi":
            assert ("thread_name", event["pid"], event["tid"]) in named
        assert ("process_name", event["pid"]) in named


def check_lanes(events):
    lanes = collections.defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lanes[event["pid"], event["tid"]].append((ns(event["ts"]), ns(event["ts"]) + ns(event["dur"])))
    for slices in lanes.values():
        check_nesting(slices)


def check_nesting(slices):
    """Slices of one lane lie in or behind each other; times are to the nanosecond."""
    open_ends = []
    for began, ended in sorted(slices, key=lambda slice: (slice[0], -slice[1])):
        while open_ends and open_ends[-1] <= began:
            open_ends.pop()
        assert not open_ends or ended <= open_ends[-1]
        open_ends.append(ended)


def check_arrows(events):
    """Each arrow begins once, in a slice, and leads at most once, to one that begins then or later."""
    began = {(e["pid"], e["tid"], ns(e["ts"])) for e in events if e["ph"] == "X"}
    starts, ends = {}, {}
    for event in events:
        if event["ph"] in "sf":
            kind = event["cat"], event["name"], event["id"]
            of = starts if event["ph"] == "s" else ends
            assert kind not in of
            of[kind] = event
            assert (event["pid"], event["tid"], ns(event["ts"])) in began
    for kind, end in ends.items():
        assert starts[kind]["ts"] <= end["ts"]


def check_counters(events):
    """A counter's numbers stand in the order of time."""
    last = collections.defaultdict(float)
    for event in events:
        if event["ph"] == "C":
            assert event["ts"] >= last[event["pid"], event["name"]]
            last[event["pid"], event["name"]] = event["ts"]


def ns(microseconds):
    return round(microseconds * 1000)
